// Package cli is the command line of rpcward: one file per command, each
// reading its options, running, and printing. It is called once per process,
// by main, and is the only place that knows how results look to a user.
package cli
