package consume

import "maps"

// bucketKey is where a consumer's metadata name the bucket of its requests'
// records.
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
