package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	v1 "jangada-examples/jangada/v1"
)

const (
	// A call that is not answered by then has an unknown outcome. The broker gives up before: it waits 10 s for a quorum.
	callTimeout = 15 * time.Second
	// How long a call is tried again before the program gives up.
	patience = time.Minute
	// Batches and pieces of batches are smaller than gRPC's usual limit of 4 MiB; a single large record may not be.
	messageBytes = 25 << 20
)

// Reasons that pass by themselves, and after which another broker may be the right one.
var passing = map[string]bool{
	"NOT_LEADER": true, "LEADER_NOT_AVAILABLE": true, "NOT_READY": true, "SHUTTING_DOWN": true,
	"STALE_LEADER_EPOCH": true, "UNKNOWN_LEADER_EPOCH": true, "PARTITION_BUSY": true, "BROKER_BUSY": true,
	"DISK_FULL": true, "QUORUM_TIMEOUT": true, "STORE_FENCED": true, "TOO_MANY_STREAMS": true, "GROUP_CHANGED": true,
	"UNKNOWN_PARTITION": true,
}

var errNoLeader = errors.New("there is no leader at the moment")

// reason is what an error says of itself: "" when it did not come from a broker. The delay is 0 when it names none.
func reason(err error) (string, time.Duration) {
	var (
		said  string
		delay time.Duration
	)
	for _, detail := range status.Convert(err).Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			said = detail.GetReason()
		case *errdetails.RetryInfo:
			delay = detail.GetRetryDelay().AsDuration()
		}
	}
	return said, delay
}

// mayPass says whether the same call can succeed later. A connection that failed has no reason; its outcome is unknown.
func mayPass(err error) bool {
	if errors.Is(err, errNoLeader) {
		return true
	}
	said, _ := reason(err)
	code := status.Code(err)
	return passing[said] || (said == "" && (code == codes.Unavailable || code == codes.DeadlineExceeded))
}

// Cluster has connections to all brokers, and knows who leads which partition.
type Cluster struct {
	seeds       []string
	connections map[string]*grpc.ClientConn
	image       *v1.GetMetadataResponse
}

func NewCluster(brokers string) *Cluster {
	return &Cluster{seeds: strings.Split(brokers, ","), connections: map[string]*grpc.ClientConn{}}
}

func (c *Cluster) Close() {
	for _, connection := range c.connections {
		_ = connection.Close()
	}
}

func (c *Cluster) connect(address string) (*grpc.ClientConn, error) {
	if connection, ok := c.connections[address]; ok {
		return connection, nil
	}
	connection, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(messageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second}))
	if err == nil {
		c.connections[address] = connection
	}
	return connection, err
}

// refresh asks one broker after the other for the topic's metadata.
func (c *Cluster) refresh(ctx context.Context, topic string) error {
	var addresses []string
	for _, broker := range c.image.GetBrokers() {
		addresses = append(addresses, broker.GetAddress())
	}
	var last error
	for _, address := range append(addresses, c.seeds...) {
		image, err := call(ctx, c, address, 2*time.Second, func(ctx context.Context, to *grpc.ClientConn) (*v1.GetMetadataResponse, error) {
			return v1.NewMetadataServiceClient(to).GetMetadata(ctx, &v1.GetMetadataRequest{Topics: []string{topic}})
		})
		if err == nil {
			c.image = image
			return nil
		}
		last = err
	}
	return last
}

// describe gives the topic as the cluster knows it now.
func (c *Cluster) describe(ctx context.Context, topic string) (*v1.Topic, error) {
	if err := c.refresh(ctx, topic); err != nil {
		return nil, err
	}
	if len(c.image.GetTopics()) == 0 {
		return nil, fmt.Errorf("topic %s does not exist: create it with `jangada topic create %s`", topic, topic)
	}
	return c.image.GetTopics()[0], nil
}

func (c *Cluster) leader(topic string, partition uint32) (string, error) {
	for _, known := range c.image.GetTopics() {
		if known.GetName() != topic || int(partition) >= len(known.GetPartitions()) {
			continue
		}
		for _, broker := range c.image.GetBrokers() {
			if broker.GetBrokerId() == known.GetPartitions()[partition].GetLeaderId() {
				return broker.GetAddress(), nil
			}
		}
	}
	return "", errNoLeader
}

func call[T any](ctx context.Context, c *Cluster, address string, timeout time.Duration, f func(context.Context, *grpc.ClientConn) (T, error)) (T, error) {
	connection, err := c.connect(address)
	if err != nil {
		var none T
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f(ctx, connection)
}

// onLeader calls the partition's leader until the call succeeds or fails for good.
func onLeader[T any](ctx context.Context, c *Cluster, topic string, partition uint32, f func(context.Context, v1.LogServiceClient) (T, error)) (T, error) {
	attempt := func() (T, error) {
		address, err := c.leader(topic, partition)
		if err != nil {
			var none T
			return none, err
		}
		return call(ctx, c, address, callTimeout, func(ctx context.Context, to *grpc.ClientConn) (T, error) {
			return f(ctx, v1.NewLogServiceClient(to))
		})
	}
	lookAround := func() { _ = c.refresh(ctx, topic) }
	return until(ctx, fmt.Sprintf("%s/%d", topic, partition), attempt, lookAround)
}

// onCoordinator calls the broker that coordinates the group.
func onCoordinator[T any](ctx context.Context, c *Cluster, group string, f func(context.Context, v1.GroupServiceClient) (T, error)) (T, error) {
	attempt := func() (T, error) {
		found, err := call(ctx, c, c.seeds[0], callTimeout, func(ctx context.Context, to *grpc.ClientConn) (*v1.FindCoordinatorResponse, error) {
			return v1.NewGroupServiceClient(to).FindCoordinator(ctx, &v1.FindCoordinatorRequest{Group: group})
		})
		if err != nil {
			var none T
			return none, err
		}
		return call(ctx, c, found.GetAddress(), callTimeout, func(ctx context.Context, to *grpc.ClientConn) (T, error) {
			return f(ctx, v1.NewGroupServiceClient(to))
		})
	}
	lookAround := func() { c.seeds = append(c.seeds[1:], c.seeds[0]) }
	return until(ctx, "group "+group, attempt, lookAround)
}

func until[T any](ctx context.Context, what string, attempt func() (T, error), lookAround func()) (T, error) {
	for giveUp := time.Now().Add(patience); ; {
		answer, err := attempt()
		if err == nil || !mayPass(err) || ctx.Err() != nil || time.Now().After(giveUp) {
			return answer, err
		}
		log.Printf("%s: %v; trying again", what, err)
		_, delay := reason(err)
		time.Sleep(max(delay, 200*time.Millisecond))
		lookAround()
	}
}
