package testcluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/hashicorp/nomad/api"

	"github.com/freejail/freejail/internal/testagent"
)

// EndJob stops a job and waits until each of its allocations is over. Its agent keeps
// them: newer agents forget them together with a job that is purged.
func (n *Nomad) EndJob(ctx context.Context, id string) error {
	if _, _, err := n.Client.Jobs().Deregister(id, false, nil); err != nil {
		return err
	}
	return testagent.Await(ctx, "job "+id+" to end", func() error {
		list, _, err := n.Client.Jobs().Allocations(id, true, nil)
		if err == nil && len(list) == 0 {
			return errors.New("it has no allocation")
		}
		for _, a := range list {
			if a.ClientStatus == api.AllocClientStatusRunning || a.ClientStatus == api.AllocClientStatusPending {
				err = errors.Join(err, fmt.Errorf("an allocation is %s", a.ClientStatus))
			}
		}
		return err
	})
}

// PurgeJob ends a job, if it is there, with those that it has made, and has its agent forget them. A periodic or
// parameterized job has no allocations of its own to wait for.
func (n *Nomad) PurgeJob(ctx context.Context, id string) error {
	jobs := n.Client.Jobs()
	job, _, err := jobs.Info(id, nil)
	var answer api.UnexpectedResponseError
	if errors.As(err, &answer) && answer.StatusCode() == http.StatusNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	makes := job.IsPeriodic() || job.IsParameterized()
	if !makes {
		err = n.EndJob(ctx, id)
	}
	if err == nil {
		_, _, err = jobs.Deregister(id, true, nil)
	}
	if err != nil || !makes {
		return err
	}
	made, _, err := jobs.PrefixList(id + "/")
	for _, child := range made {
		if child.ParentID == id {
			err = errors.Join(err, n.PurgeJob(ctx, child.ID))
		}
	}
	return err
}
