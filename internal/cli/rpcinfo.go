package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"rpcward/internal/rpcnames"
	"rpcward/rpcbind/client"
)

// rpcinfoUsage is printed by the drop-in command.
const rpcinfoUsage = `Usage: rpcinfo [-m | -s] [host]
       rpcinfo -p [host]
       rpcinfo -T netid host prognum [versnum]
       rpcinfo -l host prognum versnum
       rpcinfo [-n portnum] -u | -t host prognum [versnum]
       rpcinfo -a serv_address -T netid prognum [version]
       rpcinfo -b prognum versnum
       rpcinfo -d [-T netid] prognum versnum
`

// How long rpcinfo waits unless --timeout says otherwise; the calls' times are
// those of rpcinfo(8).
const (
	connectTimeout   = 10 * time.Second
	queryTimeout     = 60 * time.Second
	pingTimeout      = 10 * time.Second
	broadcastTimeout = 12 * time.Second
)

// rpcinfoForm is what rpcinfo is to do.
type rpcinfoForm byte

// The forms, by their option letters. The first two have none.
const (
	formNone      rpcinfoForm = 0
	formPing      rpcinfoForm = 'T'
	formPortmap   rpcinfoForm = 'p'
	formTCP       rpcinfoForm = 't'
	formUDP       rpcinfoForm = 'u'
	formAddress   rpcinfoForm = 'a'
	formBroadcast rpcinfoForm = 'b'
	formDelete    rpcinfoForm = 'd'
	formList      rpcinfoForm = 'l'
	formStat      rpcinfoForm = 'm'
	formShort     rpcinfoForm = 's'
)

// rpcinfo is one run of rpcinfo.
type rpcinfo struct {
	form    rpcinfoForm
	netid   string        // -T
	uaddr   string        // -a
	port    uint16        // -n, 0 for none
	json    bool          // --json
	timeout time.Duration // --timeout, 0 for each call's own
	args    []string

	stdout *bufio.Writer
	warn   func(string) // prints a complaint, which "rpcinfo: " goes before
}

var (
	// errUsage means that the arguments are not those of any form.
	errUsage = errors.New("these arguments don't go together")
	// errTold means that the run failed and that everything has been said.
	errTold = errors.New("failed")
)

// rpcinfoError ends a run. Its text is the one that rpcinfo(8) prints.
type rpcinfoError struct {
	subject string // what goes before the text instead of "rpcinfo"
	text    string
	cause   error // nil for mistakes in the arguments
}

func (e *rpcinfoError) Error() string {
	if e.subject == "" {
		return e.text
	}
	return e.subject + ": " + e.text
}

func (e *rpcinfoError) Unwrap() error { return e.cause }

func complain(format string, args ...any) error {
	return &rpcinfoError{text: fmt.Sprintf(format, args...)}
}

// rpcinfoMain is rpcinfo(8): args are its words, its name first.
func rpcinfoMain(args []string, stdout, stderr io.Writer) int {
	r := &rpcinfo{stdout: bufio.NewWriter(stdout)}
	r.warn = func(text string) {
		r.stdout.Flush()
		fmt.Fprintf(stderr, "rpcinfo: %s\n", text)
	}
	opts, operands, _ := getopt("a:bdlmn:pstT:u", []string{"json", "timeout:"}, args[1:])
	err := r.setOptions(opts, func(mistake string) { fmt.Fprintf(stderr, "%s: %s\n", args[0], mistake) })
	r.args = operands
	if err == nil {
		err = r.run()
	}
	return r.end(err, stderr)
}

// end prints how the run ended and returns the exit code.
func (r *rpcinfo) end(err error, stderr io.Writer) int {
	if flushErr := r.stdout.Flush(); err == nil && flushErr != nil {
		err = complain("writing: %v", flushErr)
	}
	var e *rpcinfoError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		io.WriteString(stderr, rpcinfoUsage)
	case errors.As(err, &e) && e.subject != "":
		fmt.Fprintf(stderr, "%s: %s\n", e.subject, e.text)
	case !errors.Is(err, errTold):
		fmt.Fprintf(stderr, "rpcinfo: %v\n", err)
	}
	return 1
}

// setOptions takes over the options in their order, and passes on what is none.
// That, and a second form, is an error after all of them have been read.
func (r *rpcinfo) setOptions(opts []option, tell func(string)) error {
	var usage error
	for _, o := range opts {
		switch o.name {
		case mistake:
			tell(o.arg)
			usage = errUsage
		case "T":
			r.netid = o.arg
		case "json":
			r.json = true
		case "n":
			port, err := strconv.ParseUint(o.arg, 10, 16)
			if err != nil {
				return complain("%s is illegal port number", o.arg)
			}
			r.port = uint16(port)
		case "timeout":
			d, err := parseTimeout(o.arg)
			if err != nil {
				return complain("%v", err)
			}
			r.timeout = d
		default:
			if r.form != formNone {
				usage = errUsage
			}
			r.form = rpcinfoForm(o.name[0])
			if r.form == formAddress {
				r.uaddr = o.arg
			}
		}
	}
	return usage
}

// parseTimeout reads a duration such as 1.5s, or a number of seconds.
func parseTimeout(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if sec, err2 := strconv.ParseUint(s, 10, 31); err2 == nil {
		d, err = time.Duration(sec)*time.Second, nil
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%s is no time to wait, write 5 or 2.5s", s)
	}
	return d, nil
}

// run does what the options and arguments ask for.
func (r *rpcinfo) run() error {
	switch r.form {
	case formNone:
		if len(r.args) > 1 {
			return r.pingProgram()
		}
		return r.dump()
	case formShort:
		return r.dump()
	case formPortmap:
		return r.dumpPortmap()
	case formStat:
		return r.statistics()
	case formList:
		return r.addressList()
	case formTCP, formUDP:
		return r.pingIP()
	case formAddress:
		return r.pingAddress()
	case formBroadcast:
		return r.broadcast()
	case formDelete:
		return r.unregister()
	}
	return errUsage
}

// context returns one for a call that by itself may take d.
func (r *rpcinfo) context(d time.Duration) (context.Context, context.CancelFunc) {
	if r.timeout > 0 {
		d = r.timeout
	}
	return context.WithTimeout(context.Background(), d)
}

// report prints v: as JSON if that is asked for, else by text.
func (r *rpcinfo) report(v any, text func(io.Writer)) error {
	if !r.json {
		text(r.stdout)
		return nil
	}
	enc := json.NewEncoder(asciiWriter{r.stdout})
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// programNumber reads a program's name or number. Names are those of rpc(5).
func programNumber(arg string) (uint32, error) {
	if arg == "" || !strings.ContainsFunc(arg, func(c rune) bool { return c < '0' || c > '9' }) {
		n, err := strconv.ParseUint(arg, 10, 32)
		if err != nil {
			return 0, complain("%s is illegal program number", arg)
		}
		return uint32(n), nil
	}
	n, ok := rpcnames.Number(arg)
	if !ok {
		return 0, complain("%s is unknown service", arg)
	}
	return n, nil
}

func versionNumber(arg string) (uint32, error) {
	n, err := strconv.ParseUint(arg, 10, 32)
	if err != nil {
		return 0, complain("%s is illegal version number", arg)
	}
	return uint32(n), nil
}

// programAndVersion reads both.
func programAndVersion(program, version string) (p, v uint32, err error) {
	if p, err = programNumber(program); err == nil {
		v, err = versionNumber(version)
	}
	return p, v, err
}

// nameOr returns a program's name, or other if it has none.
func nameOr(program uint32, other string) string {
	if name := rpcnames.Name(program); name != "" {
		return name
	}
	return other
}

// dial associates with an RPC server in bounded time.
func (r *rpcinfo) dial(network, address string) (*client.Client, error) {
	ctx, cancel := r.context(connectTimeout)
	defer cancel()
	return client.Dial(ctx, network, address)
}
