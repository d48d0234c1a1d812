package cli

import (
	"fmt"
	"strings"
)

// words is an explanation for people.
func (e *explain) words(x *explanation) string {
	var b strings.Builder
	who, verb := e.daemon, "refuses"
	if x.service.PortMapper() {
		who = "the port mapper"
	}
	switch {
	case x.Allowed && x.service.PortMapper():
		verb = "answers"
	case x.Allowed:
		verb = "lets in"
	}
	fmt.Fprintf(&b, "%s %s %v: %s\n", who, verb, e.client, x.Why)
	if x.Rule != nil {
		fmt.Fprintf(&b, "    %s:%d  %s\n", x.Rule.File, x.Rule.Line, x.Rule.Text)
	}
	if x.ownAddr && !e.client.IsLoopback() {
		fmt.Fprintf(&b, "    %v is an address of this host\n", e.client)
	}
	e.warning(&b, x)
	if x.service.PortMapper() {
		e.wire(&b, x)
	} else {
		e.libwrap(&b, x)
	}
	if len(x.Near) > 0 {
		b.WriteString("\nrules that came close:\n")
		for _, n := range x.Near {
			fmt.Fprintf(&b, "    %s:%d  %s\n        %s\n", n.File, n.Line, n.Text, n.Why)
		}
	}
	e.proposal(&b, x)
	return b.String()
}

func (e *explain) warning(b *strings.Builder, x *explanation) {
	switch {
	case x.broken != nil:
		fmt.Fprintf(b, "\nThe files are not in use: %s.\n", shown(x.broken.Error()))
		if hint := hintOf(x.broken); hint != "" {
			fmt.Fprintf(b, "    %s\n", hint)
		}
		b.WriteString("A rpcward that runs keeps the rules that it had before; this is what one does that starts now.\n")
	case x.Warning != "":
		fmt.Fprintf(b, "\nBut %s: the firewall decides, not these files.\n", x.Warning)
	}
}

// wire says what the client sees of it.
func (e *explain) wire(b *strings.Builder, x *explanation) {
	b.WriteByte('\n')
	if e.proto != "tcp" {
		fmt.Fprintf(b, "    over UDP  %s\n", e.overUDP(x))
	}
	if e.proto != "udp" {
		tcp := "AUTH_ERROR at once"
		switch {
		case x.Allowed && e.special(x) != "":
			tcp = e.special(x)
		case x.Allowed:
			tcp = "answered"
		}
		fmt.Fprintf(b, "    over TCP  %s\n", tcp)
	}
}

// special is what a network client gets from a procedure that is not for all.
func (e *explain) special(x *explanation) string {
	if e.procedure == nil || x.thisHost {
		return ""
	}
	return e.procedure.words
}

// overUDP words the rule by which nobody can make this host flood another.
func (e *explain) overUDP(x *explanation) string {
	switch {
	case !x.Allowed:
		return "silence: the source of a datagram may be forged, and an answer would go to the victim"
	case x.thisHost:
		return "answered"
	case e.special(x) != "":
		return e.special(x)
	case e.procedure != nil && !e.procedure.long:
		return "answered: the reply is not longer than the call"
	}
	short := "short replies only"
	if e.procedure != nil {
		short = "AUTH_ERROR"
	}
	if !x.listed {
		return short + ": no rule lists the client, so that no reply may be longer than the call"
	}
	return "answered, if it came over TCP too in the last 10 minutes; else " + short + ",\n" +
		"              for its address may be forged, and no reply may be longer than the call"
}

// libwrap says where libwrap decides otherwise.
func (e *explain) libwrap(b *strings.Builder, x *explanation) {
	l := x.Libwrap
	if l.same {
		return
	}
	verb := "refuses it"
	if l.Allowed {
		verb = "lets it in"
	}
	fmt.Fprintf(b, "\nThat is what the files mean. libwrap, by which %s reads them, %s", e.daemon, verb)
	if l.Rule != nil {
		fmt.Fprintf(b, ":\n    %s:%d  %s\n", l.Rule.File, l.Rule.Line, l.Rule.Text)
	} else {
		b.WriteString(".\n")
	}
	b.WriteString("    `rpcward check` tells what is wrong with the files\n")
}

// proposal shows what to write to have it the other way round.
func (e *explain) proposal(b *strings.Builder, x *explanation) {
	what := "let it in"
	if x.Allowed {
		what = "refuse it"
	}
	switch {
	case x.unchanged == "" && x.Change == "":
	case x.unchanged != "" && x.thisHost:
		fmt.Fprintf(b, "\n%s\n", x.unchanged)
	case x.unchanged != "":
		fmt.Fprintf(b, "\nto %s, the files must first be right: %s\n", what, x.unchanged)
	default:
		fmt.Fprintf(b, "\nto %s:  %s\n", what, x.Change)
		for i := range x.plan.Replacements {
			r := &x.plan.Replacements[i]
			fmt.Fprintf(b, "which writes to %s\n", r.Path)
			for _, line := range changedLines(r) {
				fmt.Fprintf(b, "    %s\n", line)
			}
		}
	}
}
