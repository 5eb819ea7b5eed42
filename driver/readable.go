package driver

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/freejail/freejail/internal/printable"
)

// grpcServer is go-plugin's own, but that its errors begin no line and steer no
// terminal of those who read them in Nomad: jobs and images write much of them.
func (d *Driver) grpcServer(opts []grpc.ServerOption) *grpc.Server {
	unary := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		resp, err := handle(ctx, req)
		return resp, readable(err)
	}
	stream := func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
		return readable(handle(srv, s))
	}
	return grpc.NewServer(append(opts, grpc.UnaryInterceptor(unary), grpc.StreamInterceptor(stream),
		grpc.UnknownServiceHandler(d.newerCall))...)
}

// readable keeps an error's code and details.
func readable(err error) error {
	if err == nil {
		return nil
	}
	st, coded := status.FromError(err)
	if !coded {
		return status.Error(codes.Unknown, printable.Error(err))
	}
	p := st.Proto()
	p.Message = printable.Text(p.Message)
	return status.ErrorProto(p)
}
