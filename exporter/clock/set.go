package clock

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"tributary/service/poller"
)

// watchSettings calls set each time somebody has set the wall clock, and when the host wakes from suspension, until stop. The kernel tells it by
// cancelling a timer that is armed for it (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), which costs nothing meanwhile. It does not tell of a clock that is slewed.
func watchSettings(set func()) (stop func(), err error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt32}} // 2038; a timer that is over says so once, and is cancelled all the same
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("arm a timer: %w", err)
	}
	timer, err := poller.New(fd, "timer of the wall clock")
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	var watching sync.WaitGroup
	watching.Go(func() {
		var expirations [8]byte
		timer.Each(func() {
			if _, err := unix.Read(fd, expirations[:]); errors.Is(err, unix.ECANCELED) {
				set()
			}
		})
	})
	return func() {
		_ = timer.Close()
		watching.Wait()
		_ = unix.Close(fd)
	}, nil
}
