// Load for `cargo xtask chaos` with the official Go client, as e2e/clients/java's Load makes it with the Java one: a producer with its default settings and a push
// consumer. A send begins each so many milliseconds, whether those before it have ended or not, as long as a sender is free. The lines it prints are described there.
package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	rocketmq "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"
	"github.com/apache/rocketmq-client-go/v2/rlog"
	"golang.org/x/sys/unix"
)

var (
	output sync.Mutex
	over   atomic.Bool
)

func say(line string) {
	output.Lock()
	defer output.Unlock()
	fmt.Println(line)
}

// now is the machine's monotonic clock.
func now() int64 {
	var time unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &time); err != nil {
		panic(err)
	}
	return time.Nano()
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run NAMESRV TOPIC FIRST_PROCESS SENDERS EVERY_MILLIS
func run(arguments []string) error {
	if len(arguments) != 5 {
		return fmt.Errorf("want NAMESRV TOPIC FIRST_PROCESS SENDERS EVERY_MILLIS, got %q", arguments)
	}
	rlog.SetLogLevel("warn")
	names, topic := strings.Split(arguments[0], ";"), arguments[1]
	first, err := strconv.Atoi(arguments[2])
	if err != nil {
		return err
	}
	senders, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	every, err := strconv.Atoi(arguments[4])
	if err != nil {
		return err
	}
	if err := push(names, topic, first+senders); err != nil {
		return err
	}
	sends, err := rocketmq.NewProducer(producer.WithNameServer(names), producer.WithGroupName(topic+"-producers"))
	if err != nil {
		return err
	}
	if err := sends.Start(); err != nil {
		return err
	}
	say("ready")
	due := make(chan struct{})
	go func() {
		for range time.Tick(time.Duration(every) * time.Millisecond) {
			select {
			case due <- struct{}{}:
			default: // What no sender is free for is left out.
			}
			if over.Load() {
				close(due)
				return
			}
		}
	}()
	var all sync.WaitGroup
	for process := first; process < first+senders; process++ {
		all.Add(1)
		go func(process int) {
			defer all.Done()
			send(sends, topic, process, due)
		}(process)
	}
	// Nothing is ever said to this program; only the end counts.
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	over.Store(true)
	all.Wait()
	say("quiet")
	select {}
}

// body is the same bytes as the harness makes of the two numbers.
func body(process, number int) []byte {
	head := []byte(fmt.Sprintf("%d %d ", process, number))
	return append(head, bytes.Repeat([]byte("x"), (number*397+process)%2000)...)
}

func send(sends rocketmq.Producer, topic string, process int, due <-chan struct{}) {
	for number := 1; ; number++ {
		<-due
		if over.Load() {
			return
		}
		message := primitive.NewMessage(topic, body(process, number))
		begin := now()
		result, err := sends.SendSync(context.Background(), message)
		outcome := ""
		switch {
		case err != nil:
			outcome = "error " + strings.Join(strings.Fields(err.Error()), " ")
		case result.Status != primitive.SendOK:
			outcome = fmt.Sprintf("error status %d", result.Status)
		default:
			outcome = fmt.Sprintf("ok %d %s", result.QueueOffset, result.OffsetMsgID)
		}
		say(fmt.Sprintf("sent %d %d %d %d %s", process, number, begin, now(), outcome))
	}
}

func push(names []string, topic string, process int) error {
	group := topic + "-push"
	reads, err := rocketmq.NewPushConsumer(consumer.WithNameServer(names), consumer.WithGroupName(group), consumer.WithConsumeFromWhere(consumer.ConsumeFromFirstOffset))
	if err != nil {
		return err
	}
	came := func(_ context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
		for _, message := range messages {
			value := "- -"
			if words := strings.SplitN(string(message.Body), " ", 3); len(words) == 3 {
				value = words[0] + " " + words[1]
			}
			say(fmt.Sprintf("came %d %s %d %d %d %d %d %s %d", process, group, now(), message.QueueOffset, message.CommitLogOffset,
				message.ReconsumeTimes, message.StoreTimestamp, value, crc32.ChecksumIEEE(message.Body)))
		}
		return consumer.ConsumeSuccess, nil
	}
	if err := reads.Subscribe(topic, consumer.MessageSelector{}, came); err != nil {
		return err
	}
	return reads.Start()
}
