// Encodes pictures for the server: JPEG files within the model's pixel budget.

const QUALITY = 0.92;

/** Return the size of a picture scaled down to at most `maxPixels`; a smaller picture keeps its size. */
export function fitted(width, height, maxPixels) {
  const scale = Math.min(1, Math.sqrt(maxPixels / (width * height)));
  return [Math.max(1, Math.floor(width * scale)), Math.max(1, Math.floor(height * scale))];
}

/** Encodes pictures; the files come in the order of the pictures. */
export class PictureEncoder {
  constructor(maxPixels) {
    this.maxPixels = maxPixels;
    this.nWaiting = 0;
    this.last = Promise.resolve();
  }

  /**
   * Return a promise of a JPEG file. The picture is copied at once, so it may change or be closed afterwards.
   * @param {CanvasImageSource} picture
   */
  encode(picture, sourceWidth, sourceHeight) {
    const [width, height] = fitted(sourceWidth, sourceHeight, this.maxPixels);
    const canvas = newCanvas(width, height);
    const context = canvas.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.drawImage(picture, 0, 0, width, height);
    this.nWaiting += 1;
    const file = toFile(canvas);
    const before = this.last;
    const result = (async () => {
      try {
        const blob = await file;
        await before;
        return blob;
      } finally {
        this.nWaiting -= 1;
      }
    })();
    this.last = result.catch(() => {});
    return result;
  }
}

function newCanvas(width, height) {
  if (typeof OffscreenCanvas === "function") return new OffscreenCanvas(width, height);
  return Object.assign(document.createElement("canvas"), { width, height });
}

function toFile(canvas) {
  if (canvas.convertToBlob) return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no picture"))), "image/jpeg", QUALITY);
  });
}
