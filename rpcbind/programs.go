package rpcbind

// program is a well-known RPC program. The numbers are Sun's assignments, now
// IANA's registry of RPC program numbers (RFC 5531, Section 8.4.3), the names
// those of the rpc(5) file on BSD, Solaris and Linux.
type program struct {
	number  uint32
	name    string
	aliases []string
}

var programs = []program{
	{100000, "portmapper", []string{"portmap", "sunrpc", "rpcbind"}},
	{100001, "rstatd", []string{"rstat", "rstat_svc", "rup", "perfmeter"}},
	{100002, "rusersd", []string{"rusers"}},
	{100003, "nfs", []string{"nfsprog"}},
	{100004, "ypserv", []string{"ypprog"}},
	{100005, "mountd", []string{"mount", "showmount"}},
	{100007, "ypbind", nil},
	{100008, "walld", []string{"rwall", "shutdown"}},
	{100009, "yppasswdd", []string{"yppasswd"}},
	{100010, "etherstatd", []string{"etherstat"}},
	{100011, "rquotad", []string{"rquotaprog", "quota", "rquota"}},
	{100012, "sprayd", []string{"spray"}},
	{100013, "3270_mapper", nil},
	{100014, "rje_mapper", nil},
	{100015, "selection_svc", []string{"selnsvc"}},
	{100016, "database_svc", nil},
	{100017, "rexd", []string{"rex"}},
	{100018, "alis", nil},
	{100019, "sched", nil},
	{100020, "llockmgr", nil},
	{100021, "nlockmgr", nil},
	{100022, "x25.inr", nil},
	{100023, "statmon", nil},
	{100024, "status", nil},
	{100026, "bootparam", nil},
	{100028, "ypupdated", []string{"ypupdate"}},
	{100029, "keyserv", []string{"keyserver"}},
	{100037, "tfsd", nil},
	{100038, "nsed", nil},
	{100039, "nsemntd", nil},
	{100069, "ypxfrd", nil},
	{100227, "nfs_acl", nil},
	{150001, "pcnfsd", nil},
	{300019, "amd", []string{"amq"}},
	{391002, "sgi_fam", nil},
	{395183, "vxi11", nil}, // VXI-11 core channel, TCP/IP Instrument Protocol Specification, B.6
	{395184, "vxi11_async", nil},
	{395185, "vxi11_intr", nil},
	{545580417, "ugidd", nil},
	{600100069, "fypxfrd", []string{"freebsd-ypxfrd"}},
	{788585389, "bwnfsd", nil},
}

// ProgramName returns the name of a well-known program, "" for others.
func ProgramName(number uint32) string {
	for i := range programs {
		if programs[i].number == number {
			return programs[i].name
		}
	}
	return ""
}

// ProgramNames returns the name of a well-known program and its aliases.
func ProgramNames(number uint32) []string {
	for i := range programs {
		if p := &programs[i]; p.number == number {
			return append([]string{p.name}, p.aliases...)
		}
	}
	return nil
}

// ProgramNumber returns the number of a well-known program by its name or one
// of its aliases; case matters, as in rpc(5).
func ProgramNumber(name string) (uint32, bool) {
	for i := range programs {
		p := &programs[i]
		if p.name == name {
			return p.number, true
		}
		for _, alias := range p.aliases {
			if alias == name {
				return p.number, true
			}
		}
	}
	return 0, false
}
