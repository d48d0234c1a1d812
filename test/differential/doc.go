// Package differential sends the same bytes to the distribution's rpcbind and
// to rpcward, each on a host of its own with the same addresses, and compares
// what comes back: the reply's bytes, silence, or the end of the connection.
//
// Calls are random, over all procedures, transports, kinds of caller,
// credentials and ways to be malformed, and drawn from a small universe, so
// that registrations are made, found and removed. A difference must be
// explained by an entry of the table in table.go, which has the name of a
// heading in docs/differences.md and checks in each case that this is the very
// difference that the heading speaks of. Anything else fails the test, with the
// seed and the shortest sequence of calls that still shows it.
//
// Where one of the two changed its registrations and the other did not, the
// registrations that they don't agree on are removed from both, so that what
// follows is compared on equal terms.
package differential
