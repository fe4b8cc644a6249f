"""Names of the batch entries that all systems share; imports nothing, so that loader workers stay free of JAX.

An entry has one meaning, whether it was measured on a training clip or set by a person. A system declares further
entries beside the conditioner that reads them.
"""

VIDEO = "video"  # uint8 [B T H W 3]: the clip
IMAGE = "image"  # uint8 [B H W 3]: the reference picture (the first frame of the clip, or the photo to animate)
TEXT = "text"  # int32 [B L]: token ids of the caption
MOMENTS = "moments"  # [B t h w 2C]: mean and log variance of the clip's latents, in the place of the clip
TEXT_FEATURES = "text_features"  # [B L D]: what the text encoder made of the caption; NaN: nothing is known
OBJECT, CAMERA = "object", "camera"  # float32 [B], 1..10: motion scores (`video.motion_scale`); NaN: not known
FPS = "fps"  # float32 [B]: frames per second at which the clip was sampled
