package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	v1 "jangada-examples/jangada/v1"
)

// What says that the group goes on without this member: it was silent for too long, and what it owned belongs to others.
var membershipLost = map[string]bool{"UNKNOWN_MEMBER": true, "UNKNOWN_GROUP": true, "FENCED_MEMBER_EPOCH": true}

// Member shares a topic's partitions with the other members of its group.
type Member struct {
	cluster       *Cluster
	topic, group  string
	topicID       []byte
	sessionMs     uint32
	id            string
	epoch         int64
	version       uint64
	nextHeartbeat time.Time
	// Where to read next, by partition: exactly what the member owns.
	positions map[uint32]int64
}

// begin makes it a new member that owns nothing; the next heartbeat joins.
func (m *Member) begin() {
	m.id, m.epoch, m.version, m.nextHeartbeat = rand.Text(), 0, 0, time.Time{}
	m.positions = map[uint32]int64{}
}

// lost begins anew after an error that says that the membership is lost, and gives back any other.
func (m *Member) lost(err error) error {
	said, _ := reason(err)
	if !membershipLost[said] {
		return err
	}
	log.Printf("group %s: the membership is lost (%s); joining again", m.group, said)
	m.begin()
	return nil
}

// heartbeat joins, or says that the member lives, and takes up or gives up partitions.
func (m *Member) heartbeat(ctx context.Context) error {
	if time.Now().Before(m.nextHeartbeat) {
		return nil
	}
	request := &v1.HeartbeatRequest{Group: m.group, MemberId: m.id, MemberEpoch: m.epoch, AssignmentVersion: m.version}
	if m.epoch == 0 {
		request.ClientId = "go-example"
		request.SessionTimeoutMs = m.sessionMs
		request.Subscription = &v1.Subscription{Topics: []string{m.topic}}
	} else {
		request.Owned = &v1.PartitionSet{}
		if len(m.positions) > 0 {
			request.Owned.Topics = []*v1.TopicPartitions{{TopicId: m.topicID, Partitions: slices.Sorted(maps.Keys(m.positions))}}
		}
	}
	answer, err := onCoordinator(ctx, m.cluster, m.group, func(ctx context.Context, service v1.GroupServiceClient) (*v1.HeartbeatResponse, error) {
		return service.Heartbeat(ctx, request)
	})
	if err != nil {
		return m.lost(err)
	}
	m.epoch, m.version = answer.GetMemberEpoch(), answer.GetAssignmentVersion()
	m.nextHeartbeat = time.Now().Add(time.Duration(answer.GetHeartbeatIntervalMs()) * time.Millisecond)
	if answer.GetAssignment() == nil {
		return nil
	}
	given := map[uint32]bool{}
	for _, topic := range answer.GetAssignment().GetTopics() {
		for _, partition := range topic.GetPartitions() {
			given[partition] = true
		}
	}
	return m.assign(ctx, given)
}

func (m *Member) assign(ctx context.Context, given map[uint32]bool) error {
	for partition := range m.positions {
		if !given[partition] {
			delete(m.positions, partition)
			m.nextHeartbeat = time.Time{} // Others wait for what was given up.
		}
	}
	request := &v1.FetchOffsetsRequest{Group: m.group}
	for _, partition := range slices.Sorted(maps.Keys(given)) {
		if _, owned := m.positions[partition]; !owned {
			request.Partitions = append(request.Partitions, &v1.TopicPartition{Topic: m.topic, Partition: partition})
		}
	}
	if len(request.Partitions) == 0 {
		return nil
	}
	answer, err := onCoordinator(ctx, m.cluster, m.group, func(ctx context.Context, service v1.GroupServiceClient) (*v1.FetchOffsetsResponse, error) {
		return service.FetchOffsets(ctx, request)
	})
	if err != nil {
		return err
	}
	for at, committed := range answer.GetOffsets() {
		partition, offset := request.Partitions[at].GetPartition(), committed.GetOffset()
		if offset < 0 {
			if offset, err = m.earliest(ctx, partition, "nothing is committed"); err != nil {
				return err
			}
		}
		m.positions[partition] = offset
	}
	return nil
}

// earliest is the first offset that is there: records may be gone from the log's start.
func (m *Member) earliest(ctx context.Context, partition uint32, why string) (int64, error) {
	offset, err := listOffset(ctx, m.cluster, &v1.ListOffsetsRequest{
		Partition: &v1.TopicPartition{Topic: m.topic, Partition: partition},
		Position:  &v1.ListOffsetsRequest_Earliest{Earliest: true},
	})
	if err == nil {
		log.Printf("%s/%d: %s: reading begins at the first record that is there, %d", m.topic, partition, why, offset)
	}
	return offset, err
}

// commit writes down what was handled. It is nothing any more when the membership is lost.
func (m *Member) commit(ctx context.Context) error {
	request := &v1.CommitOffsetsRequest{Group: m.group, MemberId: m.id}
	for partition, offset := range m.positions {
		request.Offsets = append(request.Offsets, &v1.PartitionOffset{
			Partition: &v1.TopicPartition{Topic: m.topic, Partition: partition},
			Offset:    offset,
		})
	}
	// An epoch of 0: the membership was lost meanwhile.
	for len(request.Offsets) > 0 && m.epoch != 0 {
		request.MemberEpoch = m.epoch
		_, err := onCoordinator(ctx, m.cluster, m.group, func(ctx context.Context, service v1.GroupServiceClient) (*v1.CommitOffsetsResponse, error) {
			return service.CommitOffsets(ctx, request)
		})
		if err == nil {
			return nil
		}
		if said, _ := reason(err); said != "STALE_MEMBER_EPOCH" {
			return m.lost(err)
		}
		// A heartbeat's answer has the newer epoch. What it takes away is still the member's until the next one.
		m.nextHeartbeat = time.Time{}
		if err := m.heartbeat(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (m *Member) leave(ctx context.Context) error {
	_, err := onCoordinator(ctx, m.cluster, m.group, func(ctx context.Context, service v1.GroupServiceClient) (*v1.HeartbeatResponse, error) {
		return service.Heartbeat(ctx, &v1.HeartbeatRequest{Group: m.group, MemberId: m.id, MemberEpoch: -1})
	})
	if said, _ := reason(err); membershipLost[said] {
		return nil
	}
	return err
}

// round handles what has come for each partition, and then commits: no record is lost, and some may come again after a crash.
func (m *Member) round(ctx context.Context, to io.Writer, left int) (int, error) {
	if err := m.heartbeat(ctx); err != nil {
		return 0, err
	}
	seen := 0
	for _, partition := range slices.Sorted(maps.Keys(m.positions)) {
		answer, err := fetch(ctx, m.cluster, m.topic, partition, m.positions[partition], 50)
		if said, _ := reason(err); said == "OFFSET_OUT_OF_RANGE" {
			why := fmt.Sprintf("there is no offset %d", m.positions[partition])
			m.positions[partition], err = m.earliest(ctx, partition, why)
		}
		if err != nil {
			return seen, err
		}
		for _, record := range answer.GetRecords() {
			if seen == left {
				break
			}
			if _, err := fmt.Fprintf(to, "%s\n", record.GetValue()); err != nil {
				return seen, err
			}
			m.positions[partition] = record.GetOffset() + 1
			seen++
		}
	}
	return seen, m.commit(ctx)
}

// consumeAsMember ends after so many records (default: never), leaving the group.
func consumeAsMember(ctx context.Context, cluster *Cluster, topic string, arguments []string, to io.Writer) error {
	if len(arguments) == 0 {
		return fmt.Errorf("usage: group BROKERS TOPIC GROUP [RECORDS [SESSION_MS]]")
	}
	left := math.MaxInt
	if len(arguments) > 1 {
		records, err := strconv.Atoi(arguments[1])
		if err != nil {
			return fmt.Errorf("RECORDS: %w", err)
		}
		left = records
	}
	sessionMs := uint64(45_000)
	if len(arguments) > 2 {
		given, err := strconv.ParseUint(arguments[2], 10, 32)
		if err != nil {
			return fmt.Errorf("SESSION_MS: %w", err)
		}
		sessionMs = given
	}
	described, err := cluster.describe(ctx, topic)
	if err != nil {
		return err
	}
	member := &Member{
		cluster: cluster, topic: topic, group: arguments[0], topicID: described.GetTopicId(), sessionMs: uint32(sessionMs),
	}
	member.begin()
	for left > 0 && ctx.Err() == nil {
		seen, err := member.round(ctx, to, left)
		if err != nil && ctx.Err() == nil {
			return err
		}
		left -= seen
	}
	// Not with the context that Ctrl-C has ended.
	return member.leave(context.WithoutCancel(ctx))
}
