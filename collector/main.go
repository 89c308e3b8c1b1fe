// Command tributary-collector takes flow records from exporters, names both ends, and writes them to ClickHouse and Kafka. It also
// answers questions about them.
package main

import (
	"os"

	"tributary/collector/app"
)

func main() { os.Exit(app.Main()) }
