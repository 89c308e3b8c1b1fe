// Package kubernetes reaches a Kubernetes API server and follows objects there.
//
// Connect reads how (in-cluster configuration, or a kubeconfig file) and opens nothing. A Follower lists one kind of object and watches it from there on,
// for as long as it runs: through restarts of the API server, refusals and cut connections, with growing pauses up to 30 s. It tells a Sink what it sees, says since
// when the present watch stands, and counts and logs what fails: once when it begins to fail and once for each new kind of failure, not at every attempt. While the API is away the sink
// keeps what it has.
//
// Only metadata is kept of an object where a Sink can do with that. Lists end after a minute without an answer, watches some seconds after the time that was agreed
// on. No token, key or certificate is ever part of an error or a log line. How many objects a sink keeps is for the sink to bound.
package kubernetes
