// Package load puts a port mapper under load and says what became of each
// call: look-ups and changes in a closed loop (so many under way at once) or an
// open one (so many a second, whatever the server does), lists, idle
// connections, and floods of what a port mapper should refuse.
//
// It works on raw sockets of the calling thread's network namespace, with
// system calls that carry many datagrams each, since a client that costs more
// than the server measures itself. A load allocates before it begins, is bounded
// in time and in what it keeps, and checks each reply byte for byte.
//
// Command rpcload is this package at a prompt.
package load
