//go:build tools

// Command jaeger: Jaeger is built as a dependency of this module, whose sums pin all that it is made of.
package main

import _ "github.com/jaegertracing/jaeger/cmd/jaeger"
