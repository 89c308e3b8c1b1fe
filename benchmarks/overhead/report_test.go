package main

import "testing"

func TestBetween(t *testing.T) {
	page := "# Page\n" + beginMark + "old\n" + endMark + "the end\n"
	got, err := between([]byte(page), []byte("new\n"))
	if want := "# Page\n" + beginMark + "new\n" + endMark + "the end\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, page := range []string{"", beginMark, endMark + beginMark, "nothing"} {
		if got, err := between([]byte(page), []byte("new\n")); err == nil {
			t.Errorf("%q became %q", page, got)
		}
	}
}
