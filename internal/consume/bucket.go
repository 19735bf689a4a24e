package consume

import (
	"fmt"
	"maps"

	"github.com/nats-io/nats.go/jetstream"
)

// bucketKey is where a consumer's metadata name the bucket of its requests'
// records. Two workers with buckets of their own that share a consumer would
// know nothing of what the other has reset.
const bucketKey = "passcode-worker.bucket"

func (n Names) metadata() map[string]string { return map[string]string{bucketKey: n.Bucket} }

// withMetadata are the metadata that are there, the server's own among them, with
// ours over them.
func withMetadata(there, ours map[string]string) map[string]string {
	all := map[string]string{}
	maps.Copy(all, there)
	maps.Copy(all, ours)
	return all
}

// sameBucket refuses a consumer that was made for another bucket. One that
// names none, such as one that an operator has made, is taken as it is.
func sameBucket(cfg jetstream.ConsumerConfig, n Names) error {
	if bucket := cfg.Metadata[bucketKey]; bucket != "" && bucket != n.Bucket {
		return fmt.Errorf("its records are in the bucket %s, not in %s, where nothing is known of requests that were reset already: "+
			"give WORKER_BUCKET=%s; or, once no worker uses that bucket and no request waits, run worker setup --update", bucket, n.Bucket, bucket)
	}
	return nil
}
