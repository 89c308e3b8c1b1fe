package query

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
)

// What shells offer behind a flag, and for a workload. Shells are told by `tributary-collector completion bash|zsh|fish`.

// valuesOf offers the values of a flag.
func valuesOf(cmd *cobra.Command, flag string, values ...string) {
	offer(cmd, flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

func offer(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic(err) // there is no such flag: tests make all commands
	}
}

// offered at most, and the longest time to look for them: a person has pressed a key and waits.
const (
	offeredWorkloads = "200"
	offeredWithin    = 2 * time.Second
)

// workloadsOf offers workloads that the store knows. What cannot be found out is not offered.
func workloadsOf(connect Connect) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), offeredWithin)
		defer cancel()
		c, err := connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Client.Close()
		type row struct {
			Workload string `json:"workload"`
		}
		found, _ := collect[row](ctx, c.Client, "SELECT workload FROM "+c.Client.database()+".workloads WHERE startsWith(workload, {begun:String}) ORDER BY workload LIMIT "+offeredWorkloads,
			map[string]string{"begun": begun})
		var out []string
		for _, r := range found {
			if printable(r.Workload) == r.Workload {
				out = append(out, r.Workload)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// workloadFlag is a filter by workload, whose values are offered.
func workloadFlag(cmd *cobra.Command, connect Connect, to *string, usage string) {
	cmd.Flags().Var((*nonEmpty)(to), "workload", usage)
	offer(cmd, "workload", workloadsOf(connect))
}

// nonEmpty is a flag's value that cannot be empty, as a script's variable may be: that would be no filter, or no check.
type nonEmpty string

var errEmpty = errors.New("it is empty: leave the flag out instead")

// Set implements pflag.Value.
func (n *nonEmpty) Set(text string) error {
	if text == "" {
		return errEmpty
	}
	*n = nonEmpty(text)
	return nil
}

// String implements pflag.Value.
func (n *nonEmpty) String() string { return string(*n) }

// Type implements pflag.Value.
func (n *nonEmpty) Type() string { return "string" }

// onlyFirst offers nothing behind the first argument, of a verb that takes one.
func onlyFirst(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, begun)
	}
}

// valuesBehind offers the values of flags to a verb that reads its flags itself.
func valuesBehind(values map[string][]string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return values[args[len(args)-1]], cobra.ShellCompDirectiveNoFileComp
	}
}
