// Package hostsaccess reads the TCP Wrappers access language of hosts_access(5)
// and hosts_options(5), says what is wrong with a file, and decides by it.
//
// [Parse] turns a file into a tree that keeps every token with its place, and
// reports what is wrong or does not mean what it seems to. [Compile] makes a
// [Matcher] for one service out of hosts.allow and hosts.deny. A Matcher is
// immutable, safe for concurrent use, and decides by numbers alone: it never
// looks up a name, asks an ident server, opens a file or runs a command, it
// does not allocate, and its speed does not depend on the number of rules.
//
// What cannot be known that way (a host name, a user, a netgroup, a rule with
// a mistake) is neither true nor false but "maybe". EXCEPT is worked out on
// the three values, and a rule that only may match acts if it refuses and does
// not act if it allows. So doubt always closes.
//
// The language follows Debian's libwrap 7.6.q where that is sound. It differs
// on purpose where libwrap silently does something else than what is written:
// addresses are compared as numbers, 0.0.0.0/0 and a /32 mask mean what they
// say, an IPv4-mapped caller is an IPv4 caller, a last line without newline
// counts, and mistakes that libwrap skips in silence are errors.
package hostsaccess
