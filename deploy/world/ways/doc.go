// Package ways tests the ways from an exporter's transport to a collector's front door, with what stands between them in real networks: a
// proxy that ends TLS (Debian's nginx), CONNECT and plain forward proxies, links that are cut. It holds tests alone.
package ways
