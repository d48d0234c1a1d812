package client_test

import (
	"context"
	"fmt"
	"log"
	"time"

	"rpcward/rpcbind"
	"rpcward/rpcbind/client"
)

// Where does this server's NFS listen, and does it answer?
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	mapper, err := client.Dial(ctx, "tcp", "nfs.example.org")
	if err != nil {
		log.Fatal(err)
	}
	defer mapper.Close()

	nfs, err := mapper.DialService(ctx, 100003, 3)
	if err != nil {
		log.Fatal(err)
	}
	defer nfs.Close()
	fmt.Println(nfs.UAddr(), nfs.Ping(ctx, 100003, 3))
}

// List what is registered on this host.
func ExampleClient_Dump() {
	ctx := context.Background()
	mapper, err := client.Dial(ctx, "local", "")
	if err != nil {
		log.Fatal(err)
	}
	defer mapper.Close()
	list, err := mapper.Dump(ctx, rpcbind.Version3)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range list {
		fmt.Printf("%d version %d at %q, by %q\n", m.Program, m.Version, m.Addr, m.Owner)
	}
}
