// Package containers knows the containers of this host: which cgroup and which network namespace are whose, and what each is called.
//
// It reads files and asks no runtime, so one that hangs holds up nothing: runc keeps a state file of every container from its
// creation to its end (Docker, containerd, CRI-O's runc and runc itself), with its cgroup, its first process and its annotations;
// Docker keeps the names of its own. In notifies about new ones as they are made (inotify), within a millisecond or so; every two seconds it looks
// anyway. A container that ended before its state was read is unknown.
//
// A pod is found by its UID, which stands in the path of its cgroups. What it is called comes from a PodList, as `kubectl get pods -o json`
// writes it, in a file that is watched, or from the Kubernetes API, which is asked for the metadata of this node's pods alone (service/kubernetes). Either way the
// name is the same. One that was learnt stays when the pod is gone, and while the API is away.
//
// Everything read is bounded: a state file to 1 MiB, a PodList to 64 MiB, containers to 4,096, names of pods to 32,768. What is broken, endless or no regular
// file is counted, logged and left out; the PodList that was read last stays in force.
package containers
