package app

import "github.com/spf13/cobra"

// askCommands are the verbs that ask.
func askCommands() []*cobra.Command { return nil }
