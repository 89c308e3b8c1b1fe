// Package e2e holds the end-to-end tests: the built programs, the real engine, a real Kafka, real connections in a world whose
// truth is known. They need root and take the host as they find it: other connections of the host are recorded too and are
// told apart by the world's network name.
package e2e
