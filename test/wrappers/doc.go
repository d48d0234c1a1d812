// Package wrappers tests the tools of the TCP Wrappers that rpcward has:
// tcpdmatch and tcpdchk beside Debian's, and tcpd under real inetds.
package wrappers
