package hostsaccess

import "strings"

// Parse reads a file. It never fails as a whole: what cannot be read right is
// in Diagnostics, and its rule is Broken.
func Parse(name string, data []byte) *File { return parse(name, string(data), maxFindings) }

// parse keeps that many findings.
func parse(name, source string, findings int) *File {
	p := &parser{file: &File{Name: name, Source: source}}
	p.found.most = findings
	p.lines()
	p.file.Diagnostics = p.found.all(name)
	return p.file
}

// parser holds what is being read.
type parser struct {
	file  *File
	line  logicalLine
	rule  *Rule   // being read; nil between rules
	quiet bool    // the line is already reported as a whole
	words []Token // room for those of a field
	trial bool    // a proposed text is being read
	found findings
}

// blanks separate the patterns of a list, libwrap's strtok set.
const blanks = ", \t\r\n"

const byteOrderMark = "\ufeff"

func (p *parser) lines() {
	r := lineReader{src: p.file.Source}
	p.file.Lines = make([]Line, 0, strings.Count(p.file.Source, "\n")+1)
	for first := true; ; first = false {
		l, ok := r.next()
		if !ok {
			return
		}
		p.line = l
		p.file.Lines = append(p.file.Lines, Line{Offset: l.offset, End: l.end})
		marked := first && p.cutByteOrderMark()
		p.logicalLine()
		p.checkLine(marked)
	}
}

// report notes a finding about the rule being read.
func (p *parser) report(s Severity, c Code, at Pos, message, consequence, hint string) *Diagnostic {
	if p.quiet {
		return &Diagnostic{}
	}
	return p.found.add(Diagnostic{
		File: p.file.Name, Pos: at, Severity: s, Code: c,
		Message: message, Consequence: consequence, Hint: hint, Rule: p.rule,
	})
}

// unusable is the consequence of every error in a rule.
const unusable = "what the rule means is not certain: it opens nothing, and the file is not taken into use if the rule is about this service"

// error reports a mistake in a rule. libwrap never matches most of what is wrong.
func (p *parser) error(c Code, at Pos, message, hint string) *Diagnostic {
	return p.report(Error, c, at, message, unusable, hint).reads(NeverMatch, "")
}

func (p *parser) current() *Line { return &p.file.Lines[len(p.file.Lines)-1] }

// logicalLine sorts out what the line is and reads it.
func (p *parser) logicalLine() {
	p.rule = nil
	text := p.line.text
	body := strings.TrimLeft(text, " \t")
	switch {
	case strings.HasPrefix(text, "#"):
		p.current().Kind = CommentLine
		p.swallowed()
	case strings.Trim(text, " \t\r") == "":
		p.current().Kind = BlankLine
	case strings.HasPrefix(body, "#"):
		p.indentedComment(len(text) - len(body))
	default:
		p.current().Kind = RuleLine
		// What cannot be told apart is not worth a second finding.
		p.quiet = p.line.unreadable()
		p.parseRule(0)
		p.quiet = false
	}
}

// unreadable reports a line that checkLine will find fault with as a whole.
func (l *logicalLine) unreadable() bool {
	text := strings.TrimSuffix(l.text, "\r")
	return strings.ContainsAny(text, "\r\x00") || len(text) < len(l.text) && strings.HasSuffix(text, `\`)
}

// cutByteOrderMark removes the mark, so that the rule behind it can be read.
func (p *parser) cutByteOrderMark() bool {
	l := &p.line
	if !strings.HasPrefix(l.text, byteOrderMark) {
		return false
	}
	n := len(byteOrderMark)
	l.text = l.text[n:]
	for i := range l.parts {
		l.parts[i].at = max(0, l.parts[i].at-n)
	}
	l.parts[0].offset += n
	l.parts[0].column += int32(n)
	return true
}

// swallowed reports lines that became part of a comment, by a backslash or by
// a carriage return. Those that look like rules are kept as broken ones, so
// that one sees whom they are about.
func (p *parser) swallowed() {
	text := p.line.text
	start := 0
	for _, part := range p.line.parts[1:] {
		p.swallowedPiece(start, part.at)
		start = part.at
	}
	p.swallowedPiece(start, len(text))
}

// swallowedPiece looks at one physical line of a comment.
func (p *parser) swallowedPiece(start, end int) {
	whole := p.line.text
	code, message, hint := CommentContinued, `the comment above ends in "\", which makes this line part of it`,
		`remove the "\" at the end of the comment`
	for start < end {
		n := strings.IndexByte(whole[start:end], '\r') + 1
		if n == 0 {
			n = end - start
		}
		piece := whole[start : start+n]
		if start > 0 && !strings.HasPrefix(piece, "#") && strings.Contains(piece, ":") {
			p.brokenRule(start, start+n, code, message, hint)
		}
		start += n
		code, message, hint = CarriageReturn, "a carriage return does not end the comment in front of this", "end lines with a newline"
	}
}

// indentedComment treats a line whose "#" is not in the first column. libwrap
// takes it for a rule: "  # portmap: ALL" in hosts.allow opens portmap to all.
func (p *parser) indentedComment(at int) {
	p.current().Kind = CommentLine
	words := strings.TrimLeft(p.line.text[at:], "# \t")
	if strings.Contains(words, ":") {
		p.brokenRule(len(p.line.text)-len(words), len(p.line.text), CommentInRule,
			`a comment starts in the first column; here "#" is the first daemon of a rule`,
			`move the "#" to the start of the line`).
			reads(WiderMatch, `a rule, of which "#" is the first daemon`).edit(p.unindent(at)...).meetsClients()
		return
	}
	p.report(Warning, CommentInRule, p.line.pos(at), `a comment starts in the first column`,
		"taken as a comment here; other programs report a rule without \":\"", `move the "#" to the start of the line`).
		edit(p.unindent(at)...)
}

// unindent removes the blanks in front of a comment. One that goes on in the
// next line may have swallowed a rule: that is for a person to sort out.
func (p *parser) unindent(at int) []Edit {
	if len(p.line.parts) > 1 {
		return nil
	}
	return []Edit{{Offset: p.line.sourceOffset(0), End: p.line.sourceOffset(at)}}
}

// brokenRule keeps text[start:end] as a rule that does not act as written.
func (p *parser) brokenRule(start, end int, c Code, message, hint string) *Diagnostic {
	whole := p.line.text
	p.line.text, p.quiet = whole[:end], true
	p.parseRule(start)
	p.line.text, p.quiet = whole, false
	d := p.error(c, p.rule.Pos, message, hint)
	p.rule.Broken = true
	p.rule = nil
	return d
}

// checkLine reports what is wrong with the line as such.
func (p *parser) checkLine(marked bool) {
	start := Pos{Line: p.line.parts[0].line, Column: 1}
	last := Pos{Line: p.line.lastLine(), Column: 1}
	if marked {
		p.marked(start)
	}
	if i := strings.IndexByte(p.line.text, 0); i >= 0 {
		p.error(NulByte, p.line.pos(i), "NUL byte in the line", "remove it").
			reads(NeverMatch, "as if the line ended there, with the next line behind it")
	}
	p.checkReturns()
	if !p.line.terminated {
		p.report(Warning, MissingNewline, last, "the last line does not end in a newline",
			"the line counts here; libwrap ignores it and, in hosts.deny, then refuses everybody", "end the file with a newline").
			reads(StopsFile, "").edit(p.lastNewline())
	}
	if len(p.line.text) > libwrapLine {
		p.report(Warning, LongLine, start, "the line is longer than 2046 bytes",
			"the line counts here; libwrap ignores it and all lines after it", "use several rules").reads(StopsFile, "")
	}
}

// lastNewline ends the file. A backslash at its end, with or without a newline
// behind it, would make what is added a continuation.
func (p *parser) lastNewline() Edit {
	source := p.file.Source
	return Edit{Offset: len(strings.TrimRight(strings.TrimSuffix(source, "\n"), `\`)), End: len(source), Text: "\n"}
}

// marked reports a byte order mark. In front of a comment it does no harm.
func (p *parser) marked(at Pos) {
	const message, hint = "the file starts with a byte order mark (U+FEFF)", "save the file as UTF-8 without byte order mark"
	remove := Edit{End: len(byteOrderMark)}
	if p.rule != nil {
		p.error(ByteOrderMark, at, message, hint).reads(NeverMatch, "a part of the first daemon's name").edit(remove)
		return
	}
	p.report(Warning, ByteOrderMark, at, message, "ignored here; libwrap takes it for the start of a daemon's name", hint).edit(remove)
}

// checkReturns reports carriage returns that do not belong to a CRLF.
func (p *parser) checkReturns() {
	text := strings.TrimSuffix(p.line.text, "\r")
	if i := strings.IndexByte(text, '\r'); i >= 0 {
		p.error(CarriageReturn, p.line.pos(i), "carriage return inside the line", "end lines with a newline").
			reads(AsWritten, "a blank").edit(p.newlines(text)...)
	}
	if p.rule != nil && strings.HasSuffix(text, `\`) && len(text) < len(p.line.text) {
		at := p.line.sourceOffset(len(text))
		p.error(CarriageReturn, p.line.pos(len(text)-1), `a backslash before CR LF does not continue the line`, "save the file with plain newlines").
			reads(AsWritten, "a pattern, and the next line as one of its own").edit(Edit{Offset: at, End: at + 1})
	}
}

// newlines puts newlines in the place of the carriage returns in text, if what
// they divide are lines.
func (p *parser) newlines(text string) (edits []Edit) {
	for i := range len(text) {
		if text[i] != '\r' {
			continue
		}
		line, _, _ := strings.Cut(text[i+1:], "\r")
		if strings.Trim(line, " \t") != "" && line[0] != '#' && !strings.Contains(line, ":") {
			return nil
		}
		at := p.line.sourceOffset(i)
		edits = append(edits, Edit{Offset: at, End: at + 1, Text: "\n"})
	}
	return edits
}

// parseRule reads the rule in text[start:].
func (p *parser) parseRule(start int) {
	text := p.line.text
	end := len(strings.TrimRight(text, " \t\r"))
	start = len(text) - len(strings.TrimLeft(text[start:], " \t\r"))
	p.rule = &Rule{Token: p.line.token(start, max(start, end)), File: p.file.Name, LastLine: p.line.lastLine()}
	p.file.Rules = append(p.file.Rules, p.rule)
	p.current().Rules = append(p.current().Rules, p.rule)

	daemons := p.field(start, false)
	if !daemons.found && !daemons.comment {
		p.missingSeparator(daemons)
		return
	}
	p.rule.Daemons = list(p, daemons, "daemon", p.daemon)
	p.words = daemons.words
	if daemons.comment {
		return
	}
	clients := p.field(daemons.next, true)
	p.rule.Clients = list(p, clients, "client", p.client)
	if clients.found {
		p.options(clients.next)
	}
}

// missingSeparator keeps the words that must be daemons, to know whom the line
// is about: "sshd ALL" is not about every service.
func (p *parser) missingSeparator(f field) {
	for i, w := range f.words {
		if i > 0 && (strings.EqualFold(w.Text, "ALL") || looksLikeAddress(w.Text)) {
			f.words = f.words[:i]
			break
		}
	}
	quiet := p.quiet
	p.quiet = true
	p.rule.Daemons = list(p, f, "daemon", p.daemon)
	p.quiet = quiet
	p.error(MissingSeparator, p.rule.Pos, `no ":" between daemons and clients`, `write "daemons : clients"`)
}

// field is one of the first two fields of a rule, cut into words.
type field struct {
	start   int
	words   []Token
	next    int  // behind the ":"
	found   bool // the ":" is there
	comment bool // a "#" ended it
}

// field reads words up to a ":" outside brackets. Brackets reach to the end
// of their word: an unbalanced one is reported later, and spoils no more.
func (p *parser) field(i int, clients bool) field {
	f := field{start: i, words: p.words[:0]}
	text := p.line.text
	for i < len(text) {
		switch {
		case strings.IndexByte(blanks, text[i]) >= 0:
			i++
		case text[i] == '#':
			p.error(CommentInRule, p.line.pos(i), `"#" inside a rule does not start a comment`, "put the comment on a line of its own").
				readWords(text[i:]).edit(p.ownLine(i)...)
			f.comment = true
			return f
		case text[i] == ':' && !(clients && addressLength(text[i:]) > 0):
			f.found, f.next = true, i+1
			return f
		default:
			end := wordEnd(text, i, clients)
			f.words = append(f.words, p.line.token(i, end))
			i = end
		}
	}
	return f
}

// readWords says what libwrap makes of the words of a comment inside a rule:
// they are patterns, and options behind a colon.
func (d *Diagnostic) readWords(comment string) *Diagnostic {
	for _, w := range strings.FieldsFunc(comment, func(r rune) bool { return strings.ContainsRune(blanks, r) }) {
		if strings.EqualFold(w, "ALL") {
			return d.reads(WiderMatch, "patterns, of which "+quote(w)+" is one").meets("everybody")
		}
	}
	if strings.Contains(comment, ":") {
		return d.reads(RefuseAll, "patterns, and what stands behind the colon as options")
	}
	return d.reads(WiderMatch, "patterns, each word one").meets("clients of these names too")
}

// ownLine moves the comment at text[i:] to a line above the rule. It does not
// when that could take an option along.
func (p *parser) ownLine(i int) []Edit {
	comment := strings.TrimRight(p.line.text[i:], " \t\r")
	if strings.ContainsAny(comment, ":\\\r\x00") {
		return nil
	}
	from := len(strings.TrimRight(p.line.text[:i], " \t"))
	if from == 0 {
		return nil
	}
	start := p.line.sourceOffset(0)
	end := p.line.sourceOffset(i+len(comment)-1) + 1
	return []Edit{{start, start, comment + "\n"}, {p.line.sourceOffset(from-1) + 1, end, ""}}
}

// wordEnd returns the end of the word at text[i]. An IPv6 address without
// brackets is one word, although libwrap cuts it at its first colon.
func wordEnd(text string, i int, clients bool) int {
	if n := addressLength(text[i:]); clients && n > 0 {
		return i + n
	}
	depth := 0
	for ; i < len(text) && strings.IndexByte(blanks, text[i]) < 0; i++ {
		switch text[i] {
		case '[':
			depth++
		case ']':
			depth = max(0, depth-1)
		case ':':
			if depth == 0 {
				return i
			}
		case '@':
			if n := addressLength(text[i+1:]); n > 0 {
				return i + 1 + n
			}
		}
	}
	return i
}

// addressLength returns the length of the unbracketed IPv6 address, with
// prefix length if any, that the first word of s is, or 0.
func addressLength(s string) int {
	n := strings.IndexAny(s, blanks)
	if n < 0 {
		n = len(s)
	}
	word := s[:n]
	for range 2 {
		address, _, _ := strings.Cut(word, "/")
		address = strings.TrimRight(address, "]") // whose "[" is missing
		if len(address) < 128 && strings.Count(address, ":") >= 2 {
			if a, err := parseAddr(address); err == nil && a.Is6() {
				return len(word)
			}
		}
		word = strings.TrimSuffix(word, ":") // the next field's
	}
	return 0
}

func isExcept(w Token) bool { return strings.EqualFold(w.Text, "EXCEPT") }

// list builds a list out of the words of a field.
func list[P any](p *parser, f field, what string, pattern func(Token) P) List[P] {
	excepts := 0
	for _, w := range f.words {
		if isExcept(w) {
			excepts++
		}
	}
	l := List[P]{Terms: make([]Term[P], 1, 1+excepts)}
	patterns := make([]P, 0, len(f.words)-excepts) // of all terms, one behind the other
	start := 0
	for _, w := range f.words {
		if isExcept(w) {
			l.Terms = append(l.Terms, Term[P]{Except: w.Pos})
			start = len(patterns)
			continue
		}
		patterns = append(patterns, pattern(w))
		l.Terms[len(l.Terms)-1].Patterns = patterns[start:len(patterns):len(patterns)]
	}
	for i, t := range l.Terms {
		if len(t.Patterns) > 0 || f.comment {
			continue
		}
		switch {
		case len(l.Terms) == 1:
			p.error(EmptyList, p.line.pos(f.start), "the "+what+" list is empty", "write ALL to mean every "+what)
		case i == 0:
			p.error(EmptyList, l.Terms[1].Except, "nothing stands in front of EXCEPT", "write ALL EXCEPT ...")
		default:
			p.error(EmptyList, t.Except, "nothing stands after EXCEPT", "remove the EXCEPT, or name what is excepted").
				reads(AsWritten, "an EXCEPT of nothing")
		}
	}
	return l
}
