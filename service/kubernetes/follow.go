package kubernetes

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

const (
	listMost  = time.Minute
	watchMost = 10 * time.Minute // where a watch says no time of its own
	watchOver = 15 * time.Second // and what is added to the time it says
)

// Sink is told of objects, from one goroutine. What it wants to keep it copies.
type Sink interface {
	Set(object runtime.Object)        // one is new or has changed
	Gone(object runtime.Object)       // one was deleted
	Replace(objects []runtime.Object) // these are all
}

// Follower keeps a Sink up to date with objects of one kind. Make it with Follow and Run it once.
type Follower struct {
	what    string
	objects Objects
	sink    Sink
	log     *slog.Logger

	errors atomic.Uint64
	mu     sync.Mutex
	open   bool      // a watch stands
	since  time.Time // since when it, and all that was before it, has been told; zero: it has not
	failed string    // the kind of failure that was logged last; "" all is well
}

// Follow makes a follower; what is how messages call the objects.
func Follow(what string, objects Objects, sink Sink, logger *slog.Logger) *Follower {
	return &Follower{what: what, objects: objects, sink: sink, log: logger}
}

// Errors counts questions to the API server that failed.
func (f *Follower) Errors() uint64 { return f.errors.Load() }

// Since is when the present watch began to tell all changes; zero while there is none.
func (f *Follower) Since() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.since
}

// Run follows until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	quiet := logr.Discard() // what fails is told by this room, once
	reflector := cache.NewReflectorWithOptions(f, nil, store{f}, cache.ReflectorOptions{Name: f.what, TypeDescription: f.what, Logger: &quiet})
	reflector.RunWithContext(klog.NewContext(ctx, quiet))
}

// ListWithContext implements cache.ListerWatcherWithContext.
func (f *Follower) ListWithContext(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	bounded, cancel := context.WithTimeout(ctx, listMost)
	defer cancel()
	list, err := f.objects.List(bounded, o)
	f.judge(ctx, err)
	return list, err
}

// WatchWithContext implements cache.ListerWatcherWithContext.
func (f *Follower) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	most := watchMost
	if o.TimeoutSeconds != nil {
		most = time.Duration(*o.TimeoutSeconds) * time.Second
	}
	bounded, cancel := context.WithTimeout(ctx, most+watchOver)
	w, err := f.objects.Watch(bounded, o)
	listing := o.SendInitialEvents != nil && *o.SendInitialEvents
	if !listing || !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) { // a server before 1.32 refuses that, and is asked for a list next
		f.judge(ctx, err)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open = true
	if !listing {
		f.since = time.Now() // it goes on from a list; otherwise it brings one first
	}
	return &watching{Interface: w, follower: f, cancel: cancel}, nil
}

// List implements cache.ListerWatcher.
func (f *Follower) List(o metav1.ListOptions) (runtime.Object, error) {
	return f.ListWithContext(context.Background(), o)
}

// Watch implements cache.ListerWatcher.
func (f *Follower) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return f.WatchWithContext(context.Background(), o)
}

// judge counts and logs. A watch that has become too old is no failure: its objects are listed anew.
func (f *Follower) judge(ctx context.Context, err error) {
	if err != nil && ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.failed
	if err == nil {
		if f.failed = ""; before != "" {
			f.log.Info("the Kubernetes API answers again", "objects", f.what)
		}
		return
	}
	f.errors.Add(1)
	if f.failed = kindOf(err); f.failed != before {
		f.log.Error("the Kubernetes API cannot be asked; what is known stays", "objects", f.what, "error", err)
	}
}

// kindOf tells failures apart that need different cures.
func kindOf(err error) string {
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		return string(reason)
	}
	return "unreachable"
}

// watching is a watch that tells the follower of its end.
type watching struct {
	watch.Interface
	follower *Follower
	cancel   context.CancelFunc
	once     sync.Once
}

// Stop implements watch.Interface. The reflector calls it however a watch ends.
func (w *watching) Stop() {
	w.Interface.Stop()
	w.once.Do(func() {
		w.cancel()
		w.follower.mu.Lock()
		defer w.follower.mu.Unlock()
		w.follower.open, w.follower.since = false, time.Time{}
	})
}

// store is what the reflector fills.
type store struct{ f *Follower }

// Add implements cache.ReflectorStore.
func (s store) Add(object any) error { return s.tell(object, s.f.sink.Set) }

// Update implements cache.ReflectorStore.
func (s store) Update(object any) error { return s.tell(object, s.f.sink.Set) }

// Delete implements cache.ReflectorStore.
func (s store) Delete(object any) error { return s.tell(object, s.f.sink.Gone) }

// Resync implements cache.ReflectorStore.
func (s store) Resync() error { return nil }

func (s store) tell(object any, to func(runtime.Object)) error {
	o, ok := object.(runtime.Object)
	if !ok {
		return fmt.Errorf("%T is no object", object)
	}
	trim(o)
	to(o)
	return nil
}

// Replace implements cache.ReflectorStore.
func (s store) Replace(list []any, _ string) error {
	objects := make([]runtime.Object, 0, len(list))
	for _, item := range list {
		if o, ok := item.(runtime.Object); ok {
			trim(o)
			objects = append(objects, o)
		}
	}
	s.f.sink.Replace(objects)
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if s.f.open {
		s.f.since = time.Now()
	}
	return nil
}

// Transformer implements cache.TransformingStore: what is kept until a list is complete is without what nobody here reads.
func (s store) Transformer() cache.TransformFunc {
	return func(object any) (any, error) {
		trim(object)
		return object, nil
	}
}

// trim drops what makes most of an object's size.
func trim(object any) {
	o, err := meta.Accessor(object)
	if err != nil {
		return
	}
	o.SetManagedFields(nil)
	if hash, ok := o.GetAnnotations()[annotationHash]; ok {
		o.SetAnnotations(map[string]string{annotationHash: hash})
		return
	}
	o.SetAnnotations(nil)
}
