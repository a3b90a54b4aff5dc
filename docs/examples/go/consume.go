package main

import (
	"bufio"
	"context"
	"io"

	v1 "jangada-examples/jangada/v1"
)

func fetch(ctx context.Context, cluster *Cluster, topic string, partition uint32, offset int64, waitMs uint32) (*v1.FetchResponse, error) {
	request := &v1.FetchRequest{
		Partition: &v1.TopicPartition{Topic: topic, Partition: partition},
		Offset:    offset,
		MaxWaitMs: waitMs,
		Form:      v1.RecordForm_RECORD_FORM_PLAIN,
	}
	return onLeader(ctx, cluster, topic, partition, func(ctx context.Context, service v1.LogServiceClient) (*v1.FetchResponse, error) {
		return service.Fetch(ctx, request)
	})
}

func listOffset(ctx context.Context, cluster *Cluster, request *v1.ListOffsetsRequest) (int64, error) {
	partition := request.GetPartition()
	answer, err := onLeader(ctx, cluster, partition.GetTopic(), partition.GetPartition(), func(ctx context.Context, service v1.LogServiceClient) (*v1.ListOffsetsResponse, error) {
		return service.ListOffsets(ctx, request)
	})
	return answer.GetOffset(), err
}

// consume prints all records of a topic, partition by partition, from the first to the last that is there now.
func consume(ctx context.Context, cluster *Cluster, topic string, to io.Writer) error {
	described, err := cluster.describe(ctx, topic)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(to)
	for index := range described.GetPartitions() {
		partition := &v1.TopicPartition{Topic: topic, Partition: uint32(index)}
		position, err := listOffset(ctx, cluster, &v1.ListOffsetsRequest{Partition: partition, Position: &v1.ListOffsetsRequest_Earliest{Earliest: true}})
		if err != nil {
			return err
		}
		end, err := listOffset(ctx, cluster, &v1.ListOffsetsRequest{Partition: partition, Position: &v1.ListOffsetsRequest_Latest{Latest: true}})
		if err != nil {
			return err
		}
		for position < end {
			answer, err := fetch(ctx, cluster, topic, uint32(index), position, 1000)
			if err != nil {
				return err
			}
			for _, record := range answer.GetRecords() {
				if record.GetOffset() < end {
					_, _ = out.Write(append(record.GetValue(), '\n'))
				}
			}
			position = answer.GetNextOffset()
		}
	}
	return out.Flush()
}
