package reachability

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	opened, closed, told *prometheus.CounterVec
	corrected            *prometheus.CounterVec
	open, judging        prometheus.Gauge
	seconds, errors      prometheus.Counter
	tellErrors           *prometheus.CounterVec
}

// verdicts and ends are the closed sets of the labels.
func verdicts() []Verdict {
	return []Verdict{
		VerdictNoListener, VerdictRejected, VerdictDropped, VerdictNoAnswer, VerdictOverflow, VerdictUnreachable, VerdictReset, VerdictNoReply,
		VerdictEarlyClose, VerdictNoPort, VerdictPolicy,
	}
}

func ends() []string { return []string{whyHealed, whyNobody, whyGone, whyReleased} }

func newMetrics(reg prometheus.Registerer) *metrics {
	const name = "tributary_collector_reachability_"
	m := &metrics{
		opened: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "opened_total", Help: "Regressions opened here, by verdict."}, []string{"verdict"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "closed_total", Help: "Regressions closed here, by reason."}, []string{"reason"}),
		corrected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name + "corrected_total", Help: "Verdicts of open regressions that changed because more was seen, by the new one.",
		}, []string{"verdict"}),
		told: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name + "alerts_told_total", Help: "Alerts that were taken, each state once a target, and again when a verdict was corrected."}, []string{"target", "state"}),
		tellErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: name + "alert_errors_total", Help: "Alerts that were not taken; they are told again.",
		}, []string{"target"}),
		open:    prometheus.NewGauge(prometheus.GaugeOpts{Name: name + "open_paths", Help: "Regressions that are open, where this collector judges."}),
		judging: prometheus.NewGauge(prometheus.GaugeOpts{Name: name + "judging_bool", Help: "1 if this collector is the one that judges."}),
		seconds: prometheus.NewCounter(prometheus.CounterOpts{Name: name + "looking_seconds_total", Help: "Time spent looking, most of it in the store's answers."}),
		errors:  prometheus.NewCounter(prometheus.CounterOpts{Name: name + "errors_total", Help: "Looks that ended with an error; they are tried again."}),
	}
	for _, v := range verdicts() {
		m.opened.WithLabelValues(string(v))
		m.corrected.WithLabelValues(string(v))
	}
	for _, e := range ends() {
		m.closed.WithLabelValues(e)
	}
	for _, t := range []string{targetAlertmanager, targetWebhook} {
		m.tellErrors.WithLabelValues(t)
		m.told.WithLabelValues(t, stateFiring)
		m.told.WithLabelValues(t, stateResolved)
	}
	reg.MustRegister(m.opened, m.corrected, m.closed, m.told, m.tellErrors, m.open, m.judging, m.seconds, m.errors)
	return m
}
