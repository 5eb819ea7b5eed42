// Command sigstore copies an image as skopeo copy does, with signatures of
// sigstore, which Debian's skopeo is built without: by the library that skopeo,
// podman and CRI-O have in common. Tests only use it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/containers/image/v5/copy"
	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/oci/layout"
	"github.com/containers/image/v5/signature"
	"github.com/containers/image/v5/types"
)

func main() {
	policy := flag.String("policy", "", "policy.json")
	dir := flag.String("registries.d", "", "directory of registries' settings")
	key := flag.String("key", "", "private key to sign with")
	pass := flag.String("passphrase", "", "of the key")
	keep := flag.Bool("keep", false, "copy signatures too")
	flag.Parse()
	if err := run(context.Background(), *policy, *dir, *key, *pass, *keep, flag.Arg(0), flag.Arg(1)); err != nil {
		fmt.Fprintln(os.Stderr, "sigstore:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, policy, dir, key, pass string, keep bool, from, to string) error {
	src, err := parse(from)
	if err != nil {
		return err
	}
	dst, err := parse(to)
	if err != nil {
		return err
	}
	p, err := signature.NewPolicyFromFile(policy)
	if err != nil {
		return err
	}
	pc, err := signature.NewPolicyContext(p)
	if err != nil {
		return err
	}
	sys := &types.SystemContext{RegistriesDirPath: dir, DockerInsecureSkipTLSVerify: types.OptionalBoolTrue}
	_, err = copy.Image(ctx, pc, dst, src, &copy.Options{SourceCtx: sys, DestinationCtx: sys, RemoveSignatures: !keep,
		SignBySigstorePrivateKeyFile: key, SignSigstorePrivateKeyPassphrase: []byte(pass)})
	return err
}

func parse(s string) (types.ImageReference, error) {
	if rest, ok := strings.CutPrefix(s, "docker:"); ok {
		return docker.ParseReference(rest)
	}
	return layout.ParseReference(strings.TrimPrefix(s, "oci:"))
}
