package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"

	v1 "jangada-examples/jangada/v1"
)

const linesPerRequest = 100

// Producer is idempotent: a request that is sent again is appended once.
type Producer struct {
	cluster   *Cluster
	topic     string
	identity  *v1.InitProducerResponse
	sequences map[uint32]int32
}

func NewProducer(ctx context.Context, cluster *Cluster, topic string) (*Producer, error) {
	// Any broker gives ids; the leader of a partition is one that lives.
	identity, err := onLeader(ctx, cluster, topic, 0, func(ctx context.Context, service v1.LogServiceClient) (*v1.InitProducerResponse, error) {
		return service.InitProducer(ctx, &v1.InitProducerRequest{})
	})
	return &Producer{cluster, topic, identity, map[uint32]int32{}}, err
}

func (p *Producer) Send(ctx context.Context, partition uint32, records []*v1.Record) (*v1.ProduceResponse, error) {
	request := &v1.ProduceRequest{
		Partition: &v1.TopicPartition{Topic: p.topic, Partition: partition},
		Payload: &v1.ProduceRequest_Records{Records: &v1.PlainRecords{
			Records: records,
			Producer: &v1.ProducerSequence{
				ProducerId:    p.identity.GetProducerId(),
				ProducerEpoch: p.identity.GetProducerEpoch(),
				BaseSequence:  p.sequences[partition],
			},
		}},
	}
	answer, err := onLeader(ctx, p.cluster, p.topic, partition, func(ctx context.Context, service v1.LogServiceClient) (*v1.ProduceResponse, error) {
		return service.Produce(ctx, request)
	})
	if err == nil {
		p.sequences[partition] = int32((int64(p.sequences[partition]) + int64(len(records))) % (1 << 31))
	}
	return answer, err
}

// produce writes lines to a topic, each once and in order, whatever happens to brokers meanwhile.
func produce(ctx context.Context, cluster *Cluster, topic string, lines io.Reader) error {
	described, err := cluster.describe(ctx, topic)
	if err != nil {
		return err
	}
	producer, err := NewProducer(ctx, cluster, topic)
	if err != nil {
		return err
	}
	var records []*v1.Record
	number := 0
	flush := func() error {
		if len(records) == 0 {
			return nil
		}
		partition := uint32(number % len(described.GetPartitions()))
		answer, err := producer.Send(ctx, partition, records)
		if err != nil {
			return err
		}
		log.Printf("%s/%d: offsets %d to %d", topic, partition, answer.GetBaseOffset(), answer.GetLastOffset())
		records, number = nil, number+1
		return nil
	}
	for reader := bufio.NewReader(lines); ; {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 {
			records = append(records, &v1.Record{Value: bytes.TrimSuffix(line, []byte("\n"))})
		}
		if err != nil && err != io.EOF {
			return err
		}
		if isLast := err == io.EOF; isLast || len(records) == linesPerRequest {
			if err := flush(); err != nil || isLast {
				return err
			}
		}
	}
}
