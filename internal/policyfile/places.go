package policyfile

import (
	"os"
	"path/filepath"
	"strings"
)

// maxLinks is how many symbolic links are followed, as the kernel does
// (path_resolution(7)).
const maxLinks = 40

// places returns the symbolic links on the way that path leads, and the file
// at its end, which need not exist. No directory in them is a link, so that
// each goes by one name only.
func places(path string) (links []string, file string) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, path
	}
	for range maxLinks {
		link, target := firstLink(path)
		if link == "" {
			break
		}
		links = append(links, link)
		path = target
	}
	return links, path
}

// firstLink returns the first symbolic link on path, and path with the link
// put in place of what it leads to; "" when there is none.
func firstLink(path string) (link, resolved string) {
	parts := strings.Split(path, "/")
	for i := 2; i <= len(parts); i++ {
		at := strings.Join(parts[:i], "/")
		target, err := os.Readlink(at)
		if err != nil {
			continue
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(at), target)
		}
		return at, filepath.Join(append([]string{target}, parts[i:]...)...)
	}
	return "", ""
}
