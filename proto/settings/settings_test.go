package settings

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct{ key, value, say string }{
		{BatchAge, "", "between"},
		{BatchAge, "-5s", "between"},
		{BatchAge, "1s", ""},
		{BatchAge, "1h", "between 10ms and 1m"},
		{Transports, "https, grpc", ""},
		{Transports, "grpc,grpc", "twice"},
		{Transports, "pigeon", "grpc and https"},
		{Transports, "udp,grpc", ""},
		{Transports, "grpc,udp", "udp before them"},
		{Transports, "", "grpc and https"},
		{FilterKeep, "port=443 role=client, workload=shop/*", ""},
		{FilterDrop, "", ""},
		{FilterDrop, "port=443,", "not a rule"},
		{FilterDrop, "everything", "not a rule"},
		{SampleRate, "10", ""},
		{SampleRate, "0", "from 1 to"},
		{SampleRate, "1000001", "from 1 to"},
		{SampleSeed, "18446744073709551615", ""},
		{SampleSeed, "-1", "is not a number"},
		{ActiveEvery, "5s", ""},
		{ActiveEvery, "1s", "between 5s and 1h"},
		{"colour", "red", `no setting "colour"`},
		{BatchAge, strings.Repeat("1", MaxValueBytes+1), "longer than"},
	} {
		err := Check(c.key, c.value)
		if (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s %.20q: %v, want %q", c.key, c.value, err, c.say)
		}
	}
}
