package image

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Labels of other tools for FreeBSD, such as ocijail, that ask for privileges of a jail.
const (
	jailLabel  = "org.freebsd.jail."
	allowLabel = jailLabel + "allow."
)

var foreignLabel = regexp.MustCompile(`^org\.freebsd\.(jail\..*|parentJail)$`)

// maxForeign are the labels of one image that ask for privileges.
const maxForeign = 1000

// Privileges are what the image asks for: by its manifest, and by the labels of other tools.
// What these cannot ask for here, or say otherwise than the manifest, is an error.
func (img *Image) Privileges() (Requires, error) {
	r := img.Manifest.Requires
	r.Allow = slices.Clone(r.Allow)
	labels := img.Config.Config.Labels
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(labels)), func(name string) bool {
		return !foreignLabel.MatchString(name)
	})
	if len(names) > maxForeign {
		return r, fmt.Errorf("%d labels ask for privileges: at most %d are allowed", len(names), maxForeign)
	}
	var errs []error
	for _, name := range names {
		if err := r.addLabel(name, labels[name]); err != nil {
			errs = append(errs, fmt.Errorf("label %.100q: %w", name, err))
		}
	}
	return r, errors.Join(errs...)
}

func (r *Requires) addLabel(name, value string) error {
	if allow, is := strings.CutPrefix(name, allowLabel); is {
		return r.addAllow(allow, value)
	}
	modes := map[string]*string{jailLabel + "sysvshm": &r.SysVIPC.Shm, jailLabel + "sysvmsg": &r.SysVIPC.Msg,
		jailLabel + "sysvsem": &r.SysVIPC.Sem}
	switch mode, known := modes[name]; {
	case known:
		return setMode(mode, value)
	case name != jailLabel+"vnet":
		return errors.New("not supported: write the image's requests into its manifest, and see freejail-build schema")
	case value == "new":
		r.VNET = true
	case value != "inherit":
		return fmt.Errorf("%.100q is neither new nor inherit", value)
	}
	return nil
}

// setMode sets a mode of SysV IPC, which the manifest may have too.
func setMode(mode *string, value string) error {
	switch value {
	case "new", "inherit":
	case "disable":
		value = ""
	default:
		return fmt.Errorf("%.100q is not new, inherit or disable", value)
	}
	if *mode != "" && *mode != value {
		return fmt.Errorf("%q, but the manifest says %q: remove one", value, *mode)
	}
	*mode = value
	return nil
}

func (r *Requires) addAllow(name, value string) error {
	switch value {
	case "true", "1":
	case "false", "0":
		if slices.Contains(r.Allow, name) {
			return errors.New("it says no, but the manifest asks for it: remove one")
		}
		return nil
	default:
		return fmt.Errorf("%.100q is neither true nor false", value)
	}
	if !dottedName.MatchString(name) {
		return fmt.Errorf("%.100q is not a valid parameter name", name)
	}
	if !slices.Contains(r.Allow, name) {
		r.Allow = append(r.Allow, name)
	}
	return nil
}
