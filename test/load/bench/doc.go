// Package bench measures port mappers side by side, and keeps one under mixed
// load for an hour. All of it is in tests: `make bench` and `make soak` run them
// at length, `make test` with tiny counts, so that they never rot.
package bench
