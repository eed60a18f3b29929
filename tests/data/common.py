"What several tests of data use: folders of photographs."
from PIL import Image
from sklearn.datasets import load_sample_images


def photographs(folder, classes=('china', 'flower'), n=6, splits=('',)):
    "Cut scikit-learn's photographs into a folder of JPEGs."
    for name, image in zip(classes, load_sample_images().images):
        for split in splits:
            (folder/split/name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                picture = Image.fromarray(image[10 * i:10 * i + 90, 20 * i:20 * i + 120])
                picture.save(folder/split/name/f'{i}.jpg')
    return folder
