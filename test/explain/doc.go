// Package explain compares what `rpcward explain` says of clients with what
// `rpcward serve` does when they call: real programs, over real networks, in
// network namespaces.
package explain
