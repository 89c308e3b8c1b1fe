// Package flowv1 is the generated Go of tributary.flow.v1, the wire contract between exporters and collectors and of the Kafka topics
// flows.v1 (flow.proto) and ownership.v1 (ownership.proto). Batch payloads (the Columns message) are not decoded with this package on
// any hot path: package tributary/proto/flow reads them straight into reused columns.
package flowv1

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative flow.proto ownership.proto resolve.proto
