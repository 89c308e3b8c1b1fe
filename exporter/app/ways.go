package app

import (
	"google.golang.org/grpc/credentials/insecure"

	"tributary/exporter/config"
	"tributary/exporter/transport"
	"tributary/service/tlsconf"
)

// waysOf says how the collector is reached; who speaks and what about is the caller's to add.
func waysOf(c config.Config, options tlsconf.Options) (transport.Config, error) {
	to := transport.Config{Address: c.Collector, Credentials: insecure.NewCredentials(), ProbeEvery: c.Ways.ProbeEvery}
	for _, way := range c.Ways.Order {
		to.Order = append(to.Order, transport.Way(way))
	}
	url, err := c.HTTPSURL()
	if err != nil {
		return to, err
	}
	udp, err := c.UDPAddress()
	if err != nil {
		return to, err
	}
	to.Datagrams = &transport.DatagramConfig{Address: udp}
	proxy, err := c.HTTPProxy()
	if err != nil {
		return to, err
	}
	to.HTTPS = &transport.HTTPSConfig{URL: url, Proxy: proxy}
	if !c.Encrypted() && url.Scheme == "http" {
		return to, nil
	}
	files := tlsconf.ClientFiles{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key, ServerName: c.TLS.ServerName}
	client, err := tlsconf.NewClient(files, options)
	if err != nil {
		return to, err
	}
	to.HTTPS.TLS = client.Config
	if c.Encrypted() {
		to.Credentials = client.GRPC()
	}
	return to, nil
}
