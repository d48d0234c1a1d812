package effects

import (
	"fmt"
	"os/user"
	"strconv"
	"syscall"
)

// becomeUser is option user: the user, its groups, and the group that was
// given with it or by an option before, or else its own.
func (s *Session) becomeUser(name, group string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, gid, err := numbers(u)
	if err != nil {
		return err
	}
	switch {
	case group != "":
		if gid, err = groupNumber(group); err != nil {
			return err
		}
	case s.group:
		gid = syscall.Getgid()
	}
	return become(uid, gid, u)
}

func numbers(u *user.User) (uid, gid int, err error) {
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("uid of %s: %w", u.Username, err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, fmt.Errorf("gid of %s: %w", u.Username, err)
	}
	return uid, gid, nil
}

// become changes to a user, if this process isn't that user already: inetd
// may have started it so, and then it has no right to change.
func become(uid, gid int, u *user.User) error {
	if uid == syscall.Getuid() && uid == syscall.Geteuid() && gid == syscall.Getgid() && uid != 0 {
		return nil
	}
	if err := syscall.Setgroups(memberships(u, gid)); err != nil {
		return fmt.Errorf("setgroups(%s): %w", u.Username, err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("setgid(%d): %w", gid, err)
	}
	if err := syscall.Setuid(uid); err != nil {
		return fmt.Errorf("setuid(%d): %w", uid, err)
	}
	return nil
}

// memberships are the groups of the user, and gid. Groups that can't be found
// out are left out: that takes rights away, and gives none.
func memberships(u *user.User, gid int) []int {
	groups := []int{gid}
	ids, err := u.GroupIds()
	if err != nil {
		return groups
	}
	for _, id := range ids {
		if n, err := strconv.Atoi(id); err == nil && n != gid && strconv.Itoa(n) != u.Gid {
			groups = append(groups, n)
		}
	}
	return groups
}

// becomeGroup is option group, which leaves no other groups.
func (s *Session) becomeGroup(name string) error {
	gid, err := groupNumber(name)
	if err != nil {
		return err
	}
	s.group = true
	if gid == syscall.Getgid() && syscall.Geteuid() != 0 {
		return nil
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return fmt.Errorf("setgroups(%s): %w", name, err)
	}
	if err := syscall.Setgid(gid); err != nil {
		return fmt.Errorf("setgid(%s): %w", name, err)
	}
	return nil
}

func groupNumber(name string) (int, error) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
