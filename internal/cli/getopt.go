package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// option is an option found on a command line.
type option struct {
	name string // "p", or "json" for a long one
	arg  string // "" for options that take none
}

// mistake is the name under which getopt returns what is no option.
const mistake = "?"

// optionError is an option that the program does not have, or one whose
// argument is missing. Its words are those of glibc's getopt(3), which print
// after the program's name and a colon.
type optionError struct {
	option     string
	needsValue bool
}

func (e *optionError) Error() string {
	if e.needsValue {
		return fmt.Sprintf("option requires an argument -- '%s'", e.option)
	}
	return fmt.Sprintf("invalid option -- '%s'", e.option)
}

// getopt reads the options of a drop-in command as getopt(3) does: letters may
// be bundled, an argument is the rest of its word or the next word, "--" ends
// the options, and operands may stand before options unless short starts with
// "+" or POSIXLY_CORRECT is set. A colon behind a letter, or behind a long
// name, says that it takes an argument. Long names are ours; a word that is
// none of them gets the message that a program without long options prints.
//
// A mistake is among the options in its place, with the name "?" and an
// *optionError's text as argument, so that a caller can print it there and go
// on, as a getopt loop does. err is the first mistake.
func getopt(short string, long []string, args []string) (opts []option, operands []string, err error) {
	short, inOrder := strings.CutPrefix(short, "+")
	inOrder = inOrder || os.Getenv("POSIXLY_CORRECT") != ""
	for len(args) > 0 {
		word := args[0]
		switch {
		case word == "--":
			return opts, append(operands, args[1:]...), err
		case len(word) < 2 || word[0] != '-':
			if inOrder {
				return opts, append(operands, args...), err
			}
			operands, args = append(operands, word), args[1:]
			continue
		}
		var read []option
		var wrong error
		if isLong(long, word) {
			read, args, wrong = longOption(long, args)
		} else {
			read, args, wrong = bundle(short, args)
		}
		opts = append(opts, read...)
		if err == nil {
			err = wrong
		}
	}
	return opts, operands, err
}

// isLong reports whether word is one of the long options, which are given in
// full: no abbreviation, so that a new option never changes an old script.
func isLong(long []string, word string) bool {
	name, ok := strings.CutPrefix(word, "--")
	if !ok {
		return false
	}
	name, _, hasValue := strings.Cut(name, "=")
	return slices.Contains(long, name+":") || !hasValue && slices.Contains(long, name)
}

// longOption reads the long option at the start of args.
func longOption(long []string, args []string) ([]option, []string, error) {
	name, value, hasValue := strings.Cut(args[0][len("--"):], "=")
	args = args[1:]
	switch {
	case hasValue || !slices.Contains(long, name+":"):
	case len(args) == 0:
		wrong := &optionError{option: name, needsValue: true}
		return []option{{mistake, wrong.Error()}}, nil, wrong
	default:
		value, args = args[0], args[1:]
	}
	return []option{{name, value}}, args, nil
}

// bundle reads the letters of the first word of args and the argument of the
// last of them. A letter that is no option does not end it.
func bundle(short string, args []string) (opts []option, rest []string, err error) {
	word, rest := args[0], args[1:]
	wrong := func(e *optionError) {
		opts = append(opts, option{mistake, e.Error()})
		if err == nil {
			err = e
		}
	}
	for i := 1; i < len(word); i++ {
		letter := word[i : i+1]
		at := strings.Index(short, letter)
		switch {
		case at < 0 || letter == ":":
			wrong(&optionError{option: letter})
		case !strings.HasPrefix(short[at+1:], ":"):
			opts = append(opts, option{name: letter})
		case i+1 < len(word):
			return append(opts, option{letter, word[i+1:]}), rest, err
		case len(rest) == 0:
			wrong(&optionError{option: letter, needsValue: true})
		default:
			return append(opts, option{letter, rest[0]}), rest[1:], err
		}
	}
	return opts, rest, err
}
