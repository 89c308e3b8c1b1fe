// Package hold is the waiting room: batches stay here while evidence for some of their rows is on its way.
//
// A batch leaves, whole and in order of readiness, as soon as every row is named or known to be unnameable: within a quarter of a
// second of the evidence's arrival (Wake), and at the latest MaxWait after it was received. Rows that are still open then, and rows
// that wait for an exporter whose watermark stands still (those hold nothing up), leave as pending. A copy of the pending rows is kept, and of those whose
// region does not answer; when evidence comes, up to PendingFor later, the rows leave again in a small batch of their own: same keys, higher version.
//
// What blocks: Add never does. emit may; batches then queue here, and what bounds them is the front door, which counts a batch until
// its sinks have it.
//
// What gives up first. Over MaxBytes the batch that has waited longest leaves now, its open rows late: nobody asks for them again.
// Over PendingBytes the rows kept longest leave as late; so do rows older than PendingFor and, at Drain, everything: no row stays
// pending in the store for ever, and one whose region is still away says so once more.
//
// What is lost: nothing that was acknowledged, for a batch is acknowledged only after emit's side has stored it. If the process dies, a held
// batch comes again from its exporter; kept copies are gone and their rows stay pending in the store until they are re-attributed.
package hold
