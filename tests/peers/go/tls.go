package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
)

// Sessions by the name that a test gives to the client that keeps them.
var (
	sessions     = map[string]tls.ClientSessionCache{}
	sessionsLock sync.Mutex
)

// One request of HTTP/1.1 on a TLS connection of its own, which resumes the session of the last one
// if it can.
func tlsAsk(fields map[string]string) (any, error) {
	sessionsLock.Lock()
	kept := sessions[fields["client"]]
	if kept == nil {
		kept = tls.NewLRUClientSessionCache(8)
		sessions[fields["client"]] = kept
	}
	sessionsLock.Unlock()
	pem, err := os.ReadFile(fields["ca"])
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	own, err := tls.LoadX509KeyPair(fields["certificate"], fields["key"])
	if err != nil {
		return nil, err
	}
	version := uint16(tls.VersionTLS13)
	if fields["version"] == "1.2" {
		version = tls.VersionTLS12
	}
	host, _, _ := net.SplitHostPort(fields["address"])
	connection, err := tls.Dial("tcp", fields["address"], &tls.Config{
		RootCAs: roots, ServerName: host, Certificates: []tls.Certificate{own},
		MinVersion: version, MaxVersion: version, ClientSessionCache: kept,
	})
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	fmt.Fprint(connection, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	said, err := io.ReadAll(connection)
	if err != nil {
		return nil, err
	}
	return map[string]any{"resumed": connection.ConnectionState().DidResume, "said": string(said)}, nil
}
