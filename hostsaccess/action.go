package hostsaccess

// ActionKind says what an action does.
type ActionKind uint8

// The kinds, hosts_options(5).
const (
	ActNone      ActionKind = iota // no option: Fault says what is wrong with it
	ActAllow                       // allow
	ActDeny                        // deny
	ActSeverity                    // log the connection with syslog priority Number
	ActSpawn                       // run Value in a shell, without input and output, and wait
	ActTwist                       // become Value in a shell that talks to the client
	ActAclExec                     // Value was run by Decide; Number is 1 if it failed
	ActKeepAlive                   // SO_KEEPALIVE
	ActLinger                      // SO_LINGER, Number seconds
	ActIdent                       // Decide asked for the user; Number is the timeout, 0 for the usual one
	ActNice                        // add Number to the nice value
	ActUmask                       // set the umask to Number
	ActSetEnv                      // set Variable to Value
	ActUser                        // become user Value, and group Group if it is not ""
	ActGroup                       // become group Value
	ActBanner                      // send Output to the client
)

// Action is an option of the rule that decided, ready to be carried out.
type Action struct {
	Kind     ActionKind
	Name     string // the option as it is written
	Argument string // its whole value, % expanded, as tcpdmatch(8) shows it

	Value    string
	Variable string // of ActSetEnv
	Group    string // of ActUser
	Number   int
	Output   []byte // of ActBanner

	// Fault, if not "", says why the option can't be carried out. It is then
	// the last action, and the verdict is Deny.
	Fault string
}
