// Package guard runs rpcward guard beside a port mapper, with real services and
// real packets: who gets to a port, at every moment, is asked of the kernel.
package guard
