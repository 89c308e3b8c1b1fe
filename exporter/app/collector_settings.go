package app

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"tributary/exporter/config"
	"tributary/exporter/filter"
	"tributary/exporter/transport"
	"tributary/proto/flowv1"
	"tributary/proto/settings"
)

// appliers are what can be changed while running: how, and the value of the configuration.
type applier struct {
	apply   func(value string) error
	initial string
}

// changeable applies what a collector asks for. Whatever it no longer asks for goes back to the configuration.
type changeable struct {
	log      *slog.Logger
	appliers map[string]applier

	mu      sync.Mutex
	inForce map[string]string
}

func newSettings(a *App) *changeable {
	c := &changeable{log: a.log, inForce: make(map[string]string)}
	c.appliers = a.captureAppliers()
	maps.Copy(c.appliers, map[string]applier{
		settings.BatchAge:   {a.setBatchAge, a.config.BatchAge.String()},
		settings.Transports: {a.setTransports, strings.Join(a.config.Ways.Order, ",")},
	})
	for key, one := range c.appliers {
		c.inForce[key] = one.initial
	}
	return c
}

// maxSettings bounds what is looked at of a message.
const maxSettings = 64

// apply puts settings in force, each for itself, and says what came of it.
func (c *changeable) apply(m *flowv1.Settings) *flowv1.Applied {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := make(map[string]string)
	for _, s := range m.GetSettings()[:min(len(m.GetSettings()), maxSettings)] {
		asked[s.GetKey()] = s.GetValue()
	}
	answer := &flowv1.Applied{Generation: m.GetGeneration()}
	for key := range asked {
		if _, ok := c.appliers[key]; !ok {
			answer.Settings = append(answer.Settings, &flowv1.AppliedSetting{Key: key, Refused: "this exporter does not have it"})
			c.log.Warn("a setting of the collector is refused", "key", fmt.Sprintf("%.64q", key), "reason", "this exporter does not have it")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(c.appliers)) {
		value, ok := asked[key]
		if !ok {
			value = c.appliers[key].initial
		}
		refused := c.change(key, value)
		if ok || refused != "" {
			answer.Settings = append(answer.Settings, &flowv1.AppliedSetting{Key: key, Value: c.inForce[key], Refused: refused})
		}
	}
	return answer
}

// change puts one setting in force and returns why not; then what was in force stays.
func (c *changeable) change(key, value string) (refused string) {
	if c.inForce[key] == value {
		return ""
	}
	err := settings.Check(key, value)
	if err == nil {
		err = c.appliers[key].apply(value)
	}
	if err != nil {
		c.log.Warn("a setting of the collector is refused", "key", key, "reason", err)
		return err.Error()
	}
	c.log.Info("a setting has changed", "key", key, "from", c.inForce[key], "to", value)
	c.inForce[key] = value
	return ""
}

// captureAppliers are filter, sampling and intervals, all of them through Change.
func (a *App) captureAppliers() map[string]applier {
	one := func(change func(c *config.Capture, value string) error) func(string) error {
		return func(value string) error {
			return a.Change(func(c *config.Capture) error { return change(c, value) })
		}
	}
	initial := a.captureSettings()
	return map[string]applier{
		settings.FilterKeep: {one(func(c *config.Capture, value string) (err error) {
			c.Keep, err = rules(settings.FilterKeep, value)
			return err
		}), texts(initial.Keep)},
		settings.FilterDrop: {one(func(c *config.Capture, value string) (err error) {
			c.Drop, err = rules(settings.FilterDrop, value)
			return err
		}), texts(initial.Drop)},
		settings.SampleRate: {one(func(c *config.Capture, value string) (err error) {
			c.SampleRate, err = settings.ParseSampleRate(value)
			return err
		}), strconv.FormatUint(uint64(initial.SampleRate), 10)},
		settings.SampleSeed: {one(func(c *config.Capture, value string) (err error) {
			c.SampleSeed, err = settings.ParseSampleSeed(value)
			return err
		}), strconv.FormatUint(initial.SampleSeed, 10)},
		settings.ActiveEvery: {one(func(c *config.Capture, value string) (err error) {
			c.ActiveEvery, err = settings.ParseActiveEvery(value)
			return err
		}), initial.ActiveEvery.String()},
	}
}

func rules(key, value string) ([]filter.Rule, error) {
	list, err := settings.ParseRules(key, value)
	if err != nil {
		return nil, err
	}
	out := make([]filter.Rule, len(list))
	for i, text := range list {
		if out[i], err = filter.ParseRule(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func texts(rules []filter.Rule) string {
	list := make([]string, len(rules))
	for i, r := range rules {
		list[i] = r.String()
	}
	return strings.Join(list, ",")
}

func (a *App) setBatchAge(value string) error {
	age, err := settings.ParseBatchAge(value)
	if err == nil {
		a.pipeline.setAge(age)
	}
	return err
}

func (a *App) setTransports(value string) error {
	names, err := settings.ParseTransports(value)
	if err != nil {
		return err
	}
	var order []transport.Way
	for _, name := range names {
		order = append(order, transport.Way(name))
	}
	return a.transport.Reorder(order)
}
