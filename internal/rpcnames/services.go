package rpcnames

import (
	"slices"
	"strconv"

	"rpcward/rpcbind"
)

// daemons are the programs of the operating system behind well-known RPC
// programs, where neither rpc(5) nor a "rpc." in front of a name says so. A
// daemon that serves several programs names them all.
var daemons = map[uint32][]string{
	100001: {"rstatd"},
	100002: {"rusersd"},
	100003: {"nfsd", "unfsd", "ganesha.nfsd"},
	100005: {"mountd", "unfsd", "ganesha.nfsd"},
	100008: {"rwalld"},
	100011: {"rquotad", "ganesha.nfsd"},
	100012: {"sprayd"},
	100021: {"lockd", "nlm", "ganesha.nfsd"},
	100023: {"statd"},
	100024: {"statd"},
	100026: {"bootparamd"},
	100227: {"nfs", "nfsd", "nfsacl"}, // knfsd has it on NFS's port, and nobody thinks of it as something else
	391002: {"fam", "famd"},
	395183: {"vxi"},
	395184: {"vxi11", "vxi"},
	395185: {"vxi11", "vxi"},
}

// Names returns what a program may be called in the daemon lists of
// hosts_access(5): its names and aliases in /etc/rpc and in our own table,
// the daemons that serve it, each of these with "rpc." in front too, and its
// number. The first one is the usual name.
func Names(number uint32) []string {
	list := rpcbind.ProgramNames(number)
	if t := host(); t != nil {
		list = append(slices.Clone(t.all[number]), list...)
	}
	list = append(list, daemons[number]...)
	for _, name := range slices.Clone(list) {
		list = append(list, "rpc."+name)
	}
	list = append(list, strconv.FormatUint(uint64(number), 10))
	return unique(list)
}

// unique keeps the first of equal strings.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(s string) bool {
		had := seen[s]
		seen[s] = true
		return had
	})
}
