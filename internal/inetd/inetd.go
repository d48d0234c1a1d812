// Package inetd reads the configuration of inetd(8) and xinetd(8): which
// program answers for which service, and whether TCP Wrappers stand before it.
// It reads files and their modes, and starts nothing.
package inetd

import (
	"os"
	"strings"

	"rpcward/hostsaccess"
)

// Places are where the configuration is looked for, in this order.
var Places = []string{"/etc/inetd.conf", "/etc/xinetd.conf"}

// Config is what was read.
type Config struct {
	File     string // as given to Read
	Services []Service
}

// Service is a program that is started for its clients.
type Service struct {
	File string // where it stands: with xinetd, often an included file
	Line int    // the last one of it

	Name     string
	Protocol string
	Program  string // the file that is executed
	Process  string // argv[0]; "" when it is missing, which is a mistake
	Argument string // argv[1], or ""

	// Checks is set for xinetd, which asks libwrap itself, by that name.
	Checks string
}

// Read reads the configuration in path, of whatever of the two it is. Like
// tcpdchk(8), it takes what can be opened but not read for empty.
func Read(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	f.Close()
	c := &Config{File: path}
	data, _ := os.ReadFile(path)
	if looksLikeXinetd(string(data)) {
		r := &xinetdReader{config: c}
		r.file(path, string(data))
		r.finish()
	} else {
		c.readInetd(string(data))
	}
	return c, nil
}

// readInetd reads inetd.conf(5) in the way of tcpdchk(8), which also takes the
// variations of old systems: no user, or a number after it or after the program.
func (c *Config) readInetd(source string) {
	for line, text := range hostsaccess.CompatLines(source) {
		words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n", r) })
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		if s, ok := inetdService(words); ok {
			s.File, s.Line = c.File, line
			c.Services = append(c.Services, s)
		}
	}
}

// inetdService reads the words of a line; false for those that start nothing.
func inetdService(words []string) (s Service, ok bool) {
	next := func() (word string) {
		if len(words) > 0 {
			word, words = words[0], words[1:]
		}
		return word
	}
	s.Name = next()
	if s.Name != "stream" && s.Name != "dgram" { // tlid.conf has no names
		next() // socket type
	}
	s.Protocol = next()
	next() // wait
	s.Program = next()
	if !strings.HasPrefix(s.Program, "/") { // it was the user
		if s.Program = next(); isNumber(s.Program) {
			s.Program = next()
		}
	}
	if s.Program == "" || strings.EqualFold(s.Program, "internal") {
		return s, false
	}
	if s.Process = next(); isNumber(s.Process) {
		s.Process = next()
	}
	s.Argument = next()
	return s, true
}

func isNumber(word string) bool { return word != "" && strings.Trim(word, "-0123456789") == "" }
