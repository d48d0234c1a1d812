package oncrpc

import (
	"errors"
	"testing"
)

func TestReplyError(t *testing.T) {
	tests := []struct {
		name         string
		reply        []byte
		want         string
		wrongVersion bool
	}{
		{"success", AppendAccepted(nil, 1, Success), "", false},
		{"no program", AppendAccepted(nil, 1, ProgUnavail), "RPC: Program unavailable", true},
		{"versions", AppendProgMismatch(nil, 1, 2, 4), "RPC: Program/version mismatch; low version = 2, high version = 4", true},
		{"no procedure", AppendAccepted(nil, 1, ProcUnavail), "RPC: Procedure unavailable", false},
		{"arguments", AppendAccepted(nil, 1, GarbageArgs), "RPC: Server can't decode arguments", true},
		{"system", AppendAccepted(nil, 1, SystemErr), "RPC: Remote system error", false},
		{"unknown outcome", AppendAccepted(nil, 1, 99), "RPC: Failed (unspecified error)", false},
		{"weak", AppendAuthError(nil, 1, AuthTooWeak), "RPC: Authentication error; why = Client credential too weak", false},
		{"unknown reason", AppendAuthError(nil, 1, 42), "RPC: Authentication error; why = (unknown authentication error - 42)", false},
		{"hostile reason", AppendAuthError(nil, 1, 1<<31), "RPC: Authentication error; why = (unknown authentication error - -2147483648)", false},
		{
			"rpc version",
			[]byte{0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1 /* denied */, 0, 0, 0, 0 /* RPC_MISMATCH */, 0, 0, 0, 2, 0, 0, 0, 3},
			"RPC: Incompatible versions of RPC; low version = 2, high version = 3", false,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := ParseReply(tt.reply)
			if err != nil {
				t.Fatal(err)
			}
			var re *ReplyError
			switch err := p.Err(); {
			case tt.want == "" && err == nil:
			case !errors.As(err, &re) || re.Error() != tt.want || re.WrongVersion() != tt.wrongVersion:
				t.Errorf("got %v, want %s, wrong version %v", err, tt.want, tt.wrongVersion)
			}
		})
	}
}
