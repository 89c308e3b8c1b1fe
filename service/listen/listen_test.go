package listen

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
)

func TestErrorsSayWhatToDo(t *testing.T) {
	taken, err := TCP(context.Background(), "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	cases := []struct {
		address string
		want    string
		errno   error
	}{
		{taken.Addr().String(), "--listen " + taken.Addr().String() + " is in use, perhaps by another copy", syscall.EADDRINUSE},
		{"192.0.2.1:4747", "--listen 192.0.2.1:4747 is not an address of this host", syscall.EADDRNOTAVAIL},
		{"4747", `--listen "4747" is not an address such as`, nil},
		{"127.0.0.1:http-but-not", "--listen 127.0.0.1:http-but-not: ", nil},
	}
	for _, c := range cases {
		_, err := TCP(context.Background(), "--listen", c.address)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) || c.errno != nil && !errors.Is(err, c.errno) {
			t.Errorf("%s: %v, want %s", c.address, err, c.want)
		}
	}
}
