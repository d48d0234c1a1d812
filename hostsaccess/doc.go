// Package hostsaccess is the access control of TCP Wrappers: it reads the
// language of hosts_access(5) and hosts_options(5), says what is wrong with a
// file, and decides by it.
//
// # Deciding
//
// [ReadTables] reads hosts.allow and hosts.deny, and [Tables.Decide] says what
// they say about a [Request]: the verdict, the rule, the reason in words, and
// the options of the rule as [Action] values for the caller to carry out. The
// example of Tables guards a net.Listener.
//
// Nothing happens behind the caller's back. The package opens no file, asks no
// name server and runs no command: what files and rules need of the machine comes
// from the [Environment], names and users from the [Resolver] of the request, and
// where those are missing the answer is not known. From the second request for
// a daemon on, Decide takes well under a microsecond however many rules there
// are, and it allocates nothing unless the rule has options.
//
// A service that must never wait takes a [Matcher] instead, made by [Compile]
// for one service. It decides by numbers alone, in a fraction of that time.
//
// # Strict and Compat
//
// Strict, the default, decides as the files are meant. It differs on purpose
// where libwrap silently does something else than what is written: addresses
// are compared as numbers, 0.0.0.0/0 and a mask of 32 bits mean what they say,
// an IPv4-mapped client is an IPv4 client, a last line without newline counts,
// and mistakes that libwrap skips in silence are errors.
//
// What is not known (a name that nobody looked up, a rule with a mistake) is
// neither true nor false but "maybe". EXCEPT is worked out on the three values,
// and a rule that only may match acts if it refuses and does not act if it
// allows. So doubt always closes.
//
// Compat decides as Debian's libwrap 7.6.q does, for all input: the same
// verdict, by the same line, with the same actions, open doors included. It is
// there to show what services that use libwrap do with a file.
//
// # Reading and checking
//
// [Parse] turns a file into a tree that keeps every token with its place, so
// that comments and layout can be kept by who edits it, and reports mistakes.
// [Check] says what comes of all that is wrong with two files, in words.
// [Matcher.Addresses] gives the sets of client addresses for which there is
// each verdict, as prefixes for a firewall.
//
// # Concurrency
//
// Tables, Matcher and File do not change once they are made and may be used by
// any number of goroutines. To follow an edit, make new ones and swap them in.
package hostsaccess
