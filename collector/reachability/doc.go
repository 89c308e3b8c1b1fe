// Package reachability watches the paths of the fleet: who reached whom on which port, and what worked and fails now. That is a
// regression: it is written into the table regressions, with a verdict and the first failing flows, and told to Alertmanager and a webhook.
//
// Everything is computed from the store, so any collector can do it, and one of them does: of those that were seen in the last 20 s the one
// that began first. Whoever takes over finds in the store what is open, and what was told to whom. Alertmanager is told again and again, as it
// wants to be; a webhook once, once more when it is over, when a verdict is corrected, and again only if a collector died between telling and noting it.
//
// A path is a regression when it worked, its attempts fail since, none succeeded, and there are enough of them over long enough that chance is
// no explanation (judge.go). Nobody trying is none, nor is a server whose addresses were given up on purpose, nor what is not seen because
// records are lost, sampled away or late. It ends when attempts succeed and go on to.
//
// The verdict is of what both ends show. What the server's end shows may come later than the failures: where the verdict depends on it, opening waits
// for it, in bounds; and it is corrected as long as all records since the break are looked at (reachability.go, correct).
//
// The room blocks nobody. What it cannot find out or tell it tries again at its next look, and counts.
package reachability
