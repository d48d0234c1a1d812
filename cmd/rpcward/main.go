// Command rpcward is a port mapper and its tools. The name that it is called
// by, or its first word, picks the command.
package main

import (
	"os"

	"rpcward/internal/cli"
)

func main() {
	os.Exit(cli.Main(os.Args, os.Stdin, os.Stdout, os.Stderr))
}
