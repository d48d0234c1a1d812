// Package peers has tests only: rpcward serves the programs that real hosts
// run beside a port mapper, and the clients that ask it, each in namespaces of
// test/lab and each as its distribution ships it.
//
// Every test runs on rpcward. With RPCWARD_PEERS_CONTROL=1 it runs on the
// distribution's rpcbind too, which proves that a failure is not the test's.
package peers
